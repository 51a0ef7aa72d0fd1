"""The costs apart from the kernels: Python, threads, tracing.

    python benchmarks/overheads.py --models gemma3-270m smollm2-135m --json overheads.json

- Python's share of a decode step: (time of the generate loop - time inside Program.run) / time of the loop; the text
  is written to a file.
- Threads: prefill with one, prefill and decode with eight, each against two.
- Tracing: a decode step in a trace, and with [attn] lines written to a file, each against a step without; the cost of
  checking for a trace when there is none.

The variants alternate; figures are medians. Run it with the interpreter that has pyml.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import machine
import pyml_nlp
from models import NAMES, Files
from pyml_core import cpu
from pyml_nlp import logs
from pyml_nlp.cli.stopwatch import Stopwatch
from pyml_nlp.language_model import LanguageModel

PROMPT = "The history of the computer begins"
PREFILL, STEPS, BLOCK, DEPTH = 512, 96, 8, 64
MANY = 8  # threads, more than cores


def python_share(lm: LanguageModel, repetitions: int) -> dict[str, float]:
    """Python's share of the decode steps of a greedy text, and its time in microseconds per step."""
    shares, costs = [], []
    with tempfile.TemporaryFile("w") as out:
        for _ in range(repetitions + 1):  # the first one warms up
            generation = lm.generate(PROMPT, max_tokens=STEPS, temperature=0)
            out.write(next(generation).text)
            with Stopwatch(lm) as inside:
                start, count = time.perf_counter(), 0
                for step in generation:
                    out.write(step.text)
                    count += 1
                wall = time.perf_counter() - start
            shares.append((wall - inside.seconds) / wall)
            costs.append((wall - inside.seconds) / count * 1e6)
    return {"share": median(shares[1:]), "us_per_step": median(costs[1:])}


def alternate(actions: dict[str, Callable[[], float]], repetitions: int) -> dict[str, list[float]]:
    """Run the actions alternately, ``repetitions`` times after an uncounted warm-up. Returns all results."""
    found: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(repetitions + 1):
        for name, action in actions.items():
            value = action()
            if turn:
                found[name].append(value)
    return found


def prefill_seconds(lm: LanguageModel) -> float:
    """Return the time of a prefill with the logits of the last position."""
    ids = [(7 * i) % (lm.vocab_size - 300) + 200 for i in range(min(PREFILL, lm.context_length))]
    cache = lm.new_cache()
    start = time.perf_counter()
    lm.forward([(cache, ids, None)])
    return time.perf_counter() - start


def decode_seconds(lm: LanguageModel, steps: int = STEPS) -> float:
    """Return the time of ``steps`` decode steps after some tokens."""
    cache = lm.new_cache()
    lm.forward([(cache, list(range(200, 200 + DEPTH)), None)])
    start = time.perf_counter()
    for token in range(300, 300 + steps):
        lm.forward([(cache, [token], None)])
    return time.perf_counter() - start


def threads(path: Path, lm: LanguageModel, repetitions: int) -> dict[str, float]:
    """Return speeds with one and eight threads, as multiples of those with two."""
    with pyml_nlp.load(path, threads=1) as one, pyml_nlp.load(path, threads=MANY) as many:
        prefill = alternate(
            {name: partial(prefill_seconds, lm) for name, lm in (("1", one), ("2", lm), ("8", many))}, repetitions
        )
        decode = alternate(
            {name: partial(decode_seconds, lm, 32) for name, lm in (("2", lm), ("8", many))}, repetitions
        )
    return {
        "prefill_two_by_one": ratio(prefill["1"], prefill["2"]),
        "prefill_eight_by_two": ratio(prefill["2"], prefill["8"]),
        "decode_eight_by_two": ratio(decode["2"], decode["8"]),
    }


def ratio(above: list[float], below: list[float]) -> float:
    """Return the median of the ratios of the repetitions."""
    return median(a / b for a, b in zip(above, below, strict=True))


def tracing(lm: LanguageModel, repetitions: int) -> dict[str, float]:
    """Return the relative costs of an open trace, of [attn] lines, and of checking for either."""

    def traced() -> float:
        with lm.trace():
            return decode_seconds(lm, BLOCK)

    def logged() -> float:
        logs.configure(logs.parse("pyml=warn,pyml.attn=trace"))
        try:
            return decode_seconds(lm, BLOCK)
        finally:
            logs.configure(logs.parse("pyml=warn"))

    def plain() -> float:
        return decode_seconds(lm, BLOCK)

    found = alternate({"plain": plain, "traced": traced, "logged": logged}, 6 * repetitions)
    step = median(found["plain"]) / BLOCK
    return {
        "trace": ratio(found["traced"], found["plain"]) - 1,
        "attn_lines": ratio(found["logged"], found["plain"]) - 1,
        "off": looking_seconds(lm) / step,
    }


def looking_seconds(lm: LanguageModel, count: int = 10_000) -> float:
    """Return the time that a step without a trace spends on checking for one."""
    from pyml_nn.trace import traces_of

    start = time.perf_counter()
    for _ in range(count):
        logs.wants_timings()
        traces_of(lm.model)
    return (time.perf_counter() - start) / count


COLUMNS: dict[str, Callable[[dict[str, Any]], str]] = {
    "Python's share of a decode step (target: < 2 %)": lambda r: f"{r['python']['share']:.2%}",
    "Python's share in µs per step": lambda r: f"{r['python']['us_per_step']:.0f}",
    "prefill, 2 threads / 1 (>= 1.7)": lambda r: f"{r['threads']['prefill_two_by_one']:.2f}",
    "prefill, 8 threads / 2 (>= 0.5)": lambda r: f"{r['threads']['prefill_eight_by_two']:.2f}",
    "decode, 8 threads / 2 (>= 0.5)": lambda r: f"{r['threads']['decode_eight_by_two']:.2f}",
    "tracing off (< 0.5 %)": lambda r: f"{r['tracing']['off']:.3%}",
    "a trace of everything": lambda r: f"{r['tracing']['trace']:+.1%}",
    "`[attn]` lines (< 3 %)": lambda r: f"{r['tracing']['attn_lines']:+.1%}",
}


def markdown(report: dict[str, Any]) -> str:
    """Return the table, with a column for each model."""
    lines = ["| | " + " | ".join(result["model"] for result in report["results"]) + " |"]
    lines.append("|---|" + "---:|" * len(report["results"]))
    for title, show in COLUMNS.items():
        lines.append(f"| {title} | " + " | ".join(show(result) for result in report["results"]) + " |")
    return "\n".join(lines) + "\n"


def measure(name: str, path: Path, repetitions: int) -> dict[str, Any]:
    """Measure all figures of one model."""
    with pyml_nlp.load(path, threads=2) as lm:
        return {
            "model": name,
            "python": python_share(lm, repetitions),
            "threads": threads(path, lm, repetitions),
            "tracing": tracing(lm, repetitions),
        }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cache = Path.home() / ".cache" / "pyml-bench"
    parser.add_argument("--models", nargs="+", default=["gemma3-270m", "smollm2-135m"], metavar="MODEL",
                        help=f"{', '.join(NAMES)} or a .gguf file")  # fmt: skip
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--envs", type=Path, default=cache, help="folder of the environments and models")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file")
    options = parser.parse_args(arguments)
    report: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "machine": machine.describe(),
        "level": cpu.level(),
        "results": [],
    }
    for name in options.models:
        files = Files(name, options.envs / "models", options.envs)
        report["results"].append(measure(files.name, files.gguf(), options.repetitions))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    sys.stdout.write(markdown(report))


if __name__ == "__main__":
    main()
