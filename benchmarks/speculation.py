"""The gain from speculation: tokens/s with and without, on texts with and without repetition.

    .venv/bin/python benchmarks/speculation.py [MODEL ...] [--tokens 128] [--rounds 3]

Tasks: `copy` (a text, followed by its beginning), `edit` (code, followed by its beginning with another name), `prose`
(continued freely, greedy and sampled). Rounds alternate between with and without speculation; medians are printed, and
tokens per run. If the tokens differ, the benchmark stops with an error.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import pyml_nlp
from pyml_nlp.language_model import LanguageModel

TEXT = (
    "The harbour of Port Ellen lies on the south side of the island. In the morning the boats leave before the sun is "
    "up, and by noon most of them are back with crabs, lobsters and a few boxes of mackerel. Mary Campbell, who keeps "
    "the books of the cooperative, weighs every box, writes the number on a slip of paper and hands the slip to the "
    "driver of the blue van. The van goes to the ferry at two o'clock. If the wind is above seven, the ferry stays in "
    "Kennacraig, and everything has to wait in the cold store until the next day. In January that happened eleven "
    "times. The cold store holds forty boxes, so twice the men had to give lobsters away, which made them very "
    "popular in the village.\n"
)

CODE = """def read_records(path, limit=None):
    records = []
    with open(path, encoding="utf-8") as handle:
        for number, line in enumerate(handle, start=1):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            fields = line.split(",")
            if len(fields) != 3:
                raise ValueError(f"{path}:{number}: expected 3 fields, got {len(fields)}")
            name, amount, unit = fields
            records.append({"name": name.strip(), "amount": float(amount), "unit": unit.strip()})
            if limit is not None and len(records) >= limit:
                break
    return records
"""

TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "copy": (f"{TEXT}\nThe same text again:\n\n{TEXT[:130]}", {}),
    "edit": (f"# The first version:\n{CODE}\n# Another name:\n{CODE.replace('read_records', 'load_rows')[:120]}", {}),
    "prose": ("Once upon a time, in a small village by the sea, there lived an old clockmaker who", {}),
    "prose, sampled": (
        "The history of the bicycle begins with", {"temperature": 0.8, "top_k": 40, "seed": 7},
    ),
}  # fmt: skip


def measure(lm: LanguageModel, prompt: str, rules: dict[str, Any], tokens: int, speculate: bool) -> Any:
    """Return milliseconds per token, the tokens, and the number of runs of the model."""
    generation = lm.generate(prompt, max_tokens=tokens, speculate=speculate, **{"temperature": 0.0, **rules})
    steps = [next(generation)]
    start = time.perf_counter()
    steps += generation
    ms = (time.perf_counter() - start) * 1e3
    runs = sum(step.model_ms > 0 for step in steps)
    return ms / max(1, len(steps) - 1), generation.tokens, runs


def main() -> None:
    """Measure, and print a row for each task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=[None])
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    for model in options.models or [None]:
        with pyml_nlp.load(model) as lm:
            print(f"{lm.name}: tokens/s without, with, ratio, tokens a run")
            for task, (prompt, rules) in TASKS.items():
                ms: dict[bool, list[float]] = {False: [], True: []}
                for _ in range(options.rounds):
                    found = {}
                    for speculate in (False, True):
                        took, found[speculate], runs = measure(lm, prompt, rules, options.tokens, speculate)
                        ms[speculate].append(took)
                    if found[False] != found[True]:
                        raise SystemExit(f"{task}: the tokens differ")
                plain, fast = (statistics.median(ms[speculate]) for speculate in (False, True))
                count = len(found[True]) - 1
                speeds = f"{1e3 / plain:7.1f} {1e3 / fast:7.1f}  {plain / fast:5.2f}x"
                print(f"  {task:15} {speeds}  {count / max(1, runs):5.2f}", flush=True)


if __name__ == "__main__":
    main()
