"""The value of each technique: speed with all of them, and with one switched off.

    python benchmarks/ablation.py --models gemma3-270m smollm2-135m --json ablation.json

Every variant is a run of pyml-bench with a public switch: threads, CPU level, dtypes. Variants alternate; figures are
medians over the rounds. Run it with the interpreter that has pyml.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import machine
from models import NAMES, Files
from pyml_core import cpu

TEXT_TEST = "tg64 of text"
TEXT = str(Path(__file__).with_name("text.txt"))
TESTS = {
    "pp512": ("-p", "512", "-n", "0"),
    "tg64": ("-p", "0", "-n", "64"),
    TEXT_TEST: ("-p", "0", "-n", "64", "--text", TEXT),
    "tg64@b8": ("-p", "0", "-n", "16", "-b", "8"),
    "pp4096": ("-p", "4096", "-n", "0"),
    "tg64@d4096": ("-p", "0", "-n", "64", "-d", "4096"),
}


@dataclass(frozen=True)
class Variant:
    """pyml with one technique switched off.

    Attributes:
        name: name in the table.
        arguments: arguments of pyml-bench.
        variables: environment variables.
        tests: the tests of the benchmark.
    """

    name: str
    arguments: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)
    tests: tuple[str, ...] = tuple(TESTS)[:4]


ALL = Variant("all on", tests=tuple(TESTS))
VARIANTS = (
    ALL,
    Variant("one thread", ("--threads", "1")),
    Variant("without VNNI (level avx512)", variables={"PYML_CPU_LEVEL": "avx512"}),
    Variant("without AVX-512 (level avx2)", variables={"PYML_CPU_LEVEL": "avx2"}),
    Variant("without vectors (level scalar)", variables={"PYML_CPU_LEVEL": "scalar"}, tests=("pp512", "tg64")),
    Variant("weights in 16 bits (bf16)", ("--dtype", "bf16")),
    Variant("keys and values in 16 bits (--kv-dtype f16)", ("--kv-dtype", "f16"), tests=tuple(TESTS)),
    Variant("head not screened (--full-head)", ("--full-head",), tests=(TEXT_TEST,)),
)


def speed(variant: Variant, test: str, model: Path) -> float:
    """Tokens a second of one run of pyml-bench."""
    slow = variant.variables.get("PYML_CPU_LEVEL") == "scalar"
    arguments = ["-p", "64", "-n", "0"] if slow and test == "pp512" else list(TESTS[test])
    command = [sys.executable, "-m", "pyml_nlp.cli.main", "bench", str(model), *arguments, *variant.arguments, "-q"]
    answer = subprocess.run(
        [*command, "-o", "json", "-r", "1" if slow else "3"],
        check=True, capture_output=True, text=True, env={**os.environ, **variant.variables},
    )  # fmt: skip
    return float(json.loads(answer.stdout)[0]["tokens_per_s"])


def measure(name: str, model: Path, rounds: int) -> dict[str, Any]:
    """Measure all variants on one model, in alternation."""
    levels = cpu.levels()
    variants = [variant for variant in VARIANTS if variant.variables.get("PYML_CPU_LEVEL", "scalar") in levels]
    found: dict[str, dict[str, list[float]]] = {variant.name: {} for variant in variants}
    failed: list[Variant] = []
    for _ in range(rounds):
        for test in TESTS:
            for variant in variants:
                if test not in variant.tests or variant in failed:
                    continue
                try:
                    found[variant.name].setdefault(test, []).append(speed(variant, test, model))
                except subprocess.CalledProcessError as error:
                    print(f"{name}: {variant.name} is left out: {error.stderr.strip()}", file=sys.stderr)
                    failed.append(variant)
                    found.pop(variant.name)
    return {"model": name, "tokens_per_s": {n: {t: median(v) for t, v in tests.items()} for n, tests in found.items()}}


def markdown(report: dict[str, Any]) -> str:
    """Return a table for each model: tokens a second, and the speed-up of all techniques together."""
    lines: list[str] = []
    for result in report["results"]:
        speeds = result["tokens_per_s"]
        base = speeds[ALL.name]
        lines += ["", f"| {result['model']} | " + " | ".join(base) + " |", "|---|" + "---:|" * len(base)]
        for name, found in speeds.items():
            cells = []
            for test, best in base.items():
                if test not in found:
                    cells.append("")
                elif name == ALL.name:
                    cells.append(f"{best:.0f}")
                else:
                    cells.append(f"{found[test]:.0f} (all on: {best / found[test]:.2f}x)")
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines[1:]) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cache = Path.home() / ".cache" / "pyml-bench"
    parser.add_argument("--models", nargs="+", default=["gemma3-270m", "smollm2-135m"], metavar="MODEL",
                        help=f"{', '.join(NAMES)} or a .gguf file")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--envs", type=Path, default=cache, help="folder of the environments and models")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file")
    options = parser.parse_args(arguments)
    report: dict[str, Any] = {"date": time.strftime("%Y-%m-%d %H:%M"), "machine": machine.describe(), "results": []}
    for name in options.models:
        files = Files(name, options.envs / "models", options.envs)
        report["results"].append(measure(files.name, files.gguf(), options.rounds))
        if options.json:
            options.json.write_text(json.dumps(report, indent=1) + "\n")
    print(markdown(report), end="")


if __name__ == "__main__":
    main()
