"""Embedding: pyml against sentence-transformers, f32 against f32, round by round in turns.

    python benchmarks/embeddings.py MODEL --peer-python /path/to/python [--rounds 5] [--threads N] [--json FILE]

MODEL is the folder of an embedding model, such as all-MiniLM-L6-v2. Run it with the interpreter that has pyml; the
other one has sentence-transformers. Each engine has a process of its own, which is stopped while the other one works.
Both get the same texts: English words, each about a token. Time is measured inside of the process, around tokenization,
the model, pooling and normalisation; each test runs repeatedly for at least 0.3 seconds. A cell is the median over the
rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

CASES = ((8, 1), (8, 64), (32, 1), (32, 64), (128, 1), (128, 32), (250, 1), (250, 16))
"""Words of a text, about as many tokens, and number of texts."""

SECONDS = 0.3

WORDS = (
    "the river runs past a small house and under an old bridge where children wait for boats in summer when water is "
    "low they walk to other side to buy bread from baker who has lived there since war ended many years ago"
).split()


def texts_of(words: int, count: int, seed: int) -> list[str]:
    """Random texts."""
    rng = random.Random(f"{words} {count} {seed}")
    return [" ".join(rng.choices(WORDS, k=words)) for _ in range(count)]


# ---- in the engines' processes


def serve(engine: str, folder: str, threads: int, dtype: str) -> None:
    """Answer each line, ``[words, count, seed]``, with the seconds of a call, and some of its numbers."""
    if engine == "pyml":
        import pyml_nlp

        embed: Any = pyml_nlp.load_embedder(folder, dtype=dtype, threads=threads).embed
    else:
        import torch
        from sentence_transformers import SentenceTransformer  # type: ignore[import-not-found]

        torch.set_num_threads(threads)
        model = SentenceTransformer(folder, device="cpu")

        embed = partial(model.encode, batch_size=64, show_progress_bar=False)

    embed(texts_of(32, 4, 0))
    print("ready", flush=True)
    for line in sys.stdin:
        words, count, seed = json.loads(line)
        texts = texts_of(words, count, seed)
        calls, start = 0, time.perf_counter()
        while calls == 0 or time.perf_counter() - start < SECONDS:
            found = embed(texts)
            calls += 1
        seconds = (time.perf_counter() - start) / calls
        print(json.dumps([seconds, [float(one) for one in found[0][:8]]]), flush=True)


# ---- the comparison


class Engine:
    """A process of an engine, stopped but for its measurements."""

    def __init__(self, name: str, python: str, folder: str, threads: int, dtype: str) -> None:
        self.name = name
        command = [python, __file__, folder, "--serve", name, "--threads", str(threads), "--dtype", dtype]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._line()
        self._process.send_signal(signal.SIGSTOP)

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} has failed")
        return line

    def measure(self, case: tuple[int, int], seed: int) -> tuple[float, list[float]]:
        """Seconds of a call, and the first numbers of its first vector."""
        assert self._process.stdin is not None
        self._process.send_signal(signal.SIGCONT)
        self._process.stdin.write(json.dumps([*case, seed]) + "\n")
        self._process.stdin.flush()
        seconds, numbers = json.loads(self._line())
        self._process.send_signal(signal.SIGSTOP)
        return seconds, numbers

    def close(self) -> None:
        """End the process."""
        self._process.send_signal(signal.SIGCONT)
        self._process.kill()
        self._process.wait()


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model")
    parser.add_argument("--peer-python")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--dtype", default="f32")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve, given.model, given.threads, given.dtype)
        return
    if not given.peer_python:
        parser.error("--peer-python is needed")
    from pyml_core import cpu

    pythons = {"pyml": sys.executable, "sentence-transformers": given.peer_python}
    engines = [Engine(name, python, given.model, given.threads, given.dtype) for name, python in pythons.items()]
    found: dict[tuple[int, int], list[tuple[float, float]]] = {case: [] for case in CASES}
    largest = 0.0
    for number in range(given.rounds):
        for case in CASES:
            order = engines if number % 2 else engines[::-1]
            results = {engine.name: engine.measure(case, number) for engine in order}
            own, peer = (results[name] for name in pythons)
            largest = max(largest, *(abs(a - b) for a, b in zip(own[1], peer[1], strict=True)))
            found[case].append((own[0], peer[0]))
    for engine in engines:
        engine.close()
    print(f"level {cpu.level()}, {given.threads} threads, {given.dtype}, {given.rounds} rounds")
    print(f"largest difference of numbers: {largest:.1e}\n")
    print("| words | texts | pyml, ms | sentence-transformers, ms | ratio (lowest to highest) |\n|---|---|---|---|---|")
    for (words, count), rows in found.items():
        own, peer = (statistics.median(column) * 1e3 for column in zip(*rows, strict=True))
        ratios = sorted(b / a for a, b in rows)
        print(
            f"| {words} | {count} | {own:.2f} | {peer:.2f} | {statistics.median(ratios):.2f} "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f}) |"
        )
    if given.json:
        rows_of = [{"words": case[0], "texts": case[1], "seconds": rows} for case, rows in found.items()]
        given.json.write_text(json.dumps({"level": cpu.level(), "dtype": given.dtype, "cases": rows_of}, indent=1))


if __name__ == "__main__":
    main()
