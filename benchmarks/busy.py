"""Speed next to busy processes, which take a part of the processors.

    python benchmarks/busy.py --models gemma3-270m smollm2-135m --json busy.json
    python benchmarks/busy.py --against ../before/.venv/bin/python

Decodes (or prefills) in bursts while some processes do nothing but count, at the same priority or a lower one. Each
number of threads, of each interpreter, has a process of its own; they take turns within a condition, conditions take
turns within a round. A burst begins with some time that does not count, in which pyml notices how busy the machine is.
A figure is the median of its bursts. Files are those of compare.py. Other work on the machine disturbs this more than
other measurements: on Linux, run it in a cgroup with as many ``cpu.shares`` as there are.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import median

import machine
from models import NAMES, Files

PREFILL, DEPTH = 512, 64
NICE = 10
TESTS = ("decode", "prefill")
COUNT = "while True: pass"


@dataclass(frozen=True)
class Condition:
    """Busy processes next to the measured one: how many, and at which nice value."""

    busy: int
    nice: int

    def __str__(self) -> str:
        return f"{self.busy} busy, nice {self.nice}" if self.busy else "quiet"


CONDITIONS = (Condition(0, 0), *(Condition(busy, nice) for nice in (0, NICE) for busy in (1, 2, 3)))


@dataclass(frozen=True)
class Variant:
    """A measured process: an interpreter and a number of threads."""

    python: str
    threads: int


# ---- the measured process


def serve(model: str, threads: int) -> None:
    """Answer each line ``TEST SECONDS`` from stdin with the tokens a second of a burst."""
    import pyml_nlp

    with pyml_nlp.load(model, threads=threads) as lm:
        cache = lm.new_cache()
        prompt = [(7 * i) % (lm.vocab_size - 300) + 200 for i in range(PREFILL)]
        lm.forward([(cache, prompt[:DEPTH], None)])
        print("ready", flush=True)
        for line in sys.stdin:
            test, seconds = line.split()
            start, tokens = time.perf_counter(), 0
            while (taken := time.perf_counter() - start) < float(seconds):
                if test == "decode":
                    if cache.length >= DEPTH + PREFILL:
                        cache.trim(DEPTH)
                    lm.forward([(cache, [300 + tokens], None)])
                    tokens += 1
                else:
                    cache.trim(0)
                    lm.forward([(cache, prompt, None)])
                    tokens += PREFILL
            print(tokens / taken, flush=True)


class Process:
    """A measured process, waiting for its turn."""

    def __init__(self, variant: Variant, model: Path) -> None:
        command = [variant.python, __file__, "--serve", str(variant.threads), "--models", str(model)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answer()

    def burst(self, test: str, seconds: float) -> float:
        """Tokens a second."""
        assert self._process.stdin
        print(test, seconds, file=self._process.stdin, flush=True)
        return float(self._answer())

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def _answer(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the measured process has ended: exit code {self._process.wait()}")
        return line


# ---- the busy processes


class Busy:
    """Processes that count, stopped unless they are wanted."""

    def __init__(self) -> None:
        self._counting = {
            nice: [
                subprocess.Popen([sys.executable, "-c", f"import os\nos.nice({nice})\n{COUNT}"])
                for _ in range(max(condition.busy for condition in CONDITIONS))
            ]
            for nice in (0, NICE)
        }
        time.sleep(0.5)  # until all of them count
        self._signal(signal.SIGSTOP)

    @contextmanager
    def __call__(self, condition: Condition) -> Iterator[None]:
        chosen = self._counting[condition.nice][: condition.busy]
        for process in chosen:
            process.send_signal(signal.SIGCONT)
        try:
            yield
        finally:
            for process in chosen:
                process.send_signal(signal.SIGSTOP)

    def close(self) -> None:
        """End the processes."""
        self._signal(signal.SIGKILL)
        for process in chain(*self._counting.values()):
            process.wait()

    def _signal(self, number: int) -> None:
        for process in chain(*self._counting.values()):
            process.send_signal(number)


# ---- the measurement

Found = dict[tuple[Condition, Variant], list[float]]


def measure(
    model: Path,
    test: str,
    variants: list[Variant],
    conditions: list[Condition],
    rounds: int,
    seconds: float,
    settle: float,
) -> Found:
    """All bursts of one model and test."""
    found: Found = {(condition, variant): [] for condition in conditions for variant in variants}
    with ExitStack() as stack:
        processes = {}
        for variant in variants:
            processes[variant] = Process(variant, model)
            stack.callback(processes[variant].close)
        busy = Busy()
        stack.callback(busy.close)
        for process in processes.values():
            process.burst(test, 0.3)
        for turn in range(rounds):
            for condition in conditions:
                for i in range(len(variants)):
                    variant = variants[(i + turn) % len(variants)]
                    with busy(condition):
                        processes[variant].burst(test, settle)
                        found[condition, variant].append(processes[variant].burst(test, seconds))
    return found


def table(found: Found, title: str, names: dict[str, str]) -> list[str]:
    """Markdown: tokens a second, and the most threads' share of the best of all."""
    variants = list(dict.fromkeys(variant for _, variant in found))
    own = max((variant for variant in variants if variant.python == variants[0].python), key=lambda v: v.threads)
    heads = [f"{names[variant.python]}{variant.threads} threads" for variant in variants]
    lines = [
        f"| {title} | {' | '.join(heads)} | {heads[variants.index(own)]} / best |",
        "|---" * (len(heads) + 2) + "|",
    ]
    for condition in dict.fromkeys(condition for condition, _ in found):
        medians = [median(found[condition, variant]) for variant in variants]
        share = medians[variants.index(own)] / max(medians)
        lines.append(f"| {condition} | {' | '.join(f'{value:.0f}' for value in medians)} | {share:.2f} |")
    return lines


def main() -> None:
    """Measure and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["gemma3-270m"], help=f"{', '.join(NAMES)}, or GGUF files")
    parser.add_argument("--tests", nargs="+", choices=TESTS, default=list(TESTS))
    parser.add_argument("--threads", nargs="+", type=int, default=sorted({1, os.cpu_count() or 1}))
    parser.add_argument("--against", metavar="PYTHON", help="an interpreter with another pyml, which takes turns too")
    parser.add_argument("--conditions", nargs="+", type=int, help=f"which of {len(CONDITIONS)} conditions, from 0")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a burst")
    parser.add_argument("--settle", type=float, default=1.0, help="seconds before it, which do not count")
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/pyml-bench/models").expanduser())
    parser.add_argument("--envs", type=Path, default=Path("~/.cache/pyml-bench").expanduser())
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        serve(options.models[0], options.serve)
        return
    names = {sys.executable: ""}
    if options.against:
        names = {sys.executable: "this, ", options.against: "other, "}
    variants = [Variant(python, threads) for python in names for threads in sorted(options.threads)]
    if options.against:  # one thread waits for no other: the other interpreter's is enough
        variants = [one for one in variants if one.threads > 1 or one.python != sys.executable]
    conditions = [CONDITIONS[i] for i in options.conditions or range(len(CONDITIONS))]
    results = []
    for name in options.models:
        model = Files(name, options.cache, options.envs).gguf()
        for test in options.tests:
            found = measure(model, test, variants, conditions, options.rounds, options.seconds, options.settle)
            print("\n".join([*table(found, f"{name}, {test}, tokens/s", names), ""]), flush=True)
            for (condition, variant), speeds in found.items():
                results.append(
                    {"model": name, "test": test, "condition": str(condition), "busy": condition.busy}
                    | {"nice": condition.nice, "python": variant.python, "threads": variant.threads, "speeds": speeds}
                )
    if options.json:
        options.json.write_text(json.dumps({"machine": machine.describe(), "results": results}, indent=1))


if __name__ == "__main__":
    main()
