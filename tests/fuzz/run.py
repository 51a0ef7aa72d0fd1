"""Fuzz every door by which input comes in: ``hatch run fuzz --seconds 120``.

    --target NAME    one target alone
    --seconds N      for all targets together
    --first SEED     the first seed; by default a new one every day
    --seed SEED      one input of one target, here, with its traceback

Findings are printed with the seeds that show them, and make the exit code 1. An input that shows a fault is kept as a
file in ``corpus`` once the fault is mended (``--keep NAME`` with ``--seed`` writes it); ``test_fuzz.py`` runs these.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz import driver
from tests.fuzz.cache_files import Caches
from tests.fuzz.model_files import Folders, GGUFModels
from tests.fuzz.packed_files import PackedModels
from tests.fuzz.request_inputs import BatchLines, ChatTemplates, MessageLists, ToolFiles
from tests.fuzz.structured_inputs import Expressions, Grammars, Schemas

HERE = Path(__file__).resolve().parent

TARGETS: dict[str, type[driver.Target]] = {
    target.name: target
    for target in (
        GGUFModels,
        Folders,
        PackedModels,
        Caches,
        BatchLines,
        MessageLists,
        ToolFiles,
        ChatTemplates,
        Schemas,
        Expressions,
        Grammars,
    )
}
CORPUS = HERE / "corpus"


def main() -> int:
    """Run the requested targets; returns 1 if there are findings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=list(TARGETS))
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--first", type=int, default=int(time.time()) // 86400 * 1_000_000)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--keep", metavar="NAME")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    names = [arguments.target] if arguments.target else list(TARGETS)
    if arguments.seed is not None:
        return one(names[0], arguments.seed, arguments.keep)
    total = findings = 0
    for name in names:
        with tempfile.TemporaryDirectory(prefix="pyml-fuzz-") as folder:
            report = driver.fuzz(TARGETS[name](), Path(folder), arguments.seconds / len(names), arguments.first)
        total += report.inputs
        findings += len(report.findings)
        print(f"{name}: {report.inputs} inputs, {report.accepted} accepted, {report.refused} refused", flush=True)
        for outcome, seeds in report.findings.items():
            print(f"    {len(seeds)} times, seeds {', '.join(map(str, seeds[:3]))}: {outcome}", flush=True)
    print(f"{total} inputs from seed {arguments.first}, {findings} kinds of findings")
    return 1 if findings else 0


def one(name: str, seed: int, keep: str | None) -> int:
    """Run one input in this process, without a net; or keep it."""
    target = TARGETS[name]()
    with tempfile.TemporaryDirectory(prefix="pyml-fuzz-") as folder:
        target.prepare(Path(folder))
        given = target.make(random.Random(seed))
        if keep:
            (CORPUS / name).mkdir(parents=True, exist_ok=True)
            (CORPUS / name / f"{keep}.json").write_text(json.dumps(given) + "\n")
            return 0
        print(json.dumps(given)[:2000])
        outcome = driver.attempt(target, given)
        print(outcome)
        if outcome not in ("accepted", "refused"):
            target.run(given)
    return 0


if __name__ == "__main__":
    sys.exit(main())
