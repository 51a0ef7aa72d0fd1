"""Rates of a worker, and the time of a shard: the input of the cluster simulation.

A worker is a process with a loaded model and a number of threads. Its rates are measured; :data:`MEASURED` names their
sources. Rows of a shard run through continuous batching: when a row of the batch has ended, the next one is prefilled.
"""

from __future__ import annotations

import heapq
import json
import random
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import log, log2, sqrt
from pathlib import Path
from typing import NamedTuple


class Row(NamedTuple):
    """Tokens of a row: those of the prompt that no cache has, and those generated."""

    prompt: int
    output: int


@dataclass(frozen=True)
class Rates:
    """Measured rates of a worker that has its socket to itself.

    Attributes:
        name: model and machine.
        level: CPU level.
        threads: threads of the worker.
        prefill: tokens/s of prefill.
        steps: two or more pairs of batch size and seconds of a decode step, ascending.
        gigabytes: weights read in a decode step, GB.
        load: seconds to load the model, once a node.
        source: where the figures are from.
    """

    name: str
    level: str
    threads: int
    prefill: float
    steps: tuple[tuple[int, float], ...]
    gigabytes: float
    load: float
    source: str

    def step(self, batch: float) -> float:
        """Return the seconds of a decode step of ``batch`` texts: linear between measured sizes and beyond them."""
        index = max(1, min(bisect_left(self.steps, (batch,)), len(self.steps) - 1))
        (low, first), (high, second) = self.steps[index - 1 : index + 1]
        return first + (second - first) * (batch - low) / (high - low)

    def with_threads(self, threads: int, efficiency: float) -> Rates:
        """Return the rates with other ``threads``; each doubling keeps ``efficiency`` of the speed per thread."""
        factor = threads / self.threads * efficiency ** log2(threads / self.threads)
        steps = tuple((batch, seconds / factor) for batch, seconds in self.steps)
        return replace(self, threads=threads, prefill=self.prefill * factor, steps=steps)


MEASURED = {
    rates.name: rates
    for rates in (
        Rates(
            "reference-avx2", "avx2", 1, prefill=747, steps=((1, 0.0089), (8, 0.0678)), gigabytes=0.24, load=0.7,
            source="One thread of 2 cores of an AMD EPYC. Prefill: pp512, 1 278 tokens/s with two threads, which are "
            "1.71 times as fast as one. A step of one text: a call with 16 tokens. A step of eight: fitted to the 300 "
            "rows in one process (28.1 s).",
        ),
        Rates(
            "documented-avx512_vnni", "avx512_vnni", 2, prefill=4170, steps=((1, 0.00403), (8, 0.00946)),
            gigabytes=0.24, load=0.4,
            source="Two threads of 2 cores of an AMD EPYC. Decode: tg64, and 846 tokens/s of texts in batches of 8. "
            "Prefill: the lowest rate of several sessions.",
        ),
        Rates(
            "batch-avx512_vnni", "avx512_vnni", 1, prefill=1377, steps=((1, 0.0061), (8, 0.0187)), gigabytes=0.24,
            load=1.4,
            source="One thread of 2 cores of an AMD EPYC, processor seconds of the workers of `pyml batch run` on a "
            "machine with much other work: 160 rows with 115 tokens of prompt and one generated, 120 rows with 12 and "
            "32, and 16 of these one at a time.",
        ),
    )
}  # fmt: skip
"""Rates by name."""


@dataclass(frozen=True)
class Lengths:
    """Tokens of the rows of a job: log-normal distributions, or the rows of a file.

    Attributes:
        prompt: mean tokens of a prompt that are computed for each row.
        output: mean generated tokens.
        spread: standard deviation / mean of both.
        shared: tokens of the instruction in common, computed once in each shard.
        rows: rows to draw from, in order, instead of the distributions.
    """

    prompt: float = 1
    output: float = 1
    spread: float = 0.5
    shared: int = 0
    rows: tuple[Row, ...] = ()

    @classmethod
    def read(cls, path: Path, shared: int = 0) -> Lengths:
        """Return the lengths of a JSON Lines file with integers ``prompt`` and ``output``."""
        rows = []
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            try:
                fields = json.loads(line)
                row = Row(fields["prompt"], fields["output"])
            except (ValueError, KeyError, TypeError):
                row = Row(-1, -1)
            if not all(type(value) is int and value >= 0 for value in row):
                raise ValueError(f'{path}:{number}: expected integers "prompt" and "output", found {line[:80]!r}')
            rows.append(row)
        if not rows:
            raise ValueError(f"{path}: no rows")
        return cls(shared=shared, rows=tuple(rows))

    @property
    def mean(self) -> float:
        """Mean tokens of a row: those computed of its prompt, and those generated."""
        if self.rows:
            return sum(map(sum, self.rows)) / len(self.rows)
        return self.prompt + self.output

    def draw(self, count: int, source: random.Random) -> list[Row]:
        """Return ``count`` rows: those of the file, repeated, or random ones."""
        if self.rows:
            return [self.rows[index % len(self.rows)] for index in range(count)]
        sigma = sqrt(log(1 + self.spread**2))

        def length(mean: float) -> int:
            return max(1, round(source.lognormvariate(log(mean) - sigma**2 / 2, sigma))) if mean >= 1 else 0

        return [Row(length(self.prompt), length(self.output)) for _ in range(count)]


def batch_seconds(rows: Iterable[Row], rates: Rates, batch: int) -> tuple[float, float]:
    """Return the seconds of prefill and of decode of ``rows`` in one worker, with ``batch`` texts at a time.

    The first token of a text comes from its prefill, the others from decode steps of all texts of the batch.
    """
    prefill = decode = 0.0
    ends: list[int] = []  # the steps at which running texts end
    now = 0

    def advance() -> float:
        nonlocal now
        end = heapq.heappop(ends)
        seconds = (end - now) * rates.step(len(ends) + 1)
        now = end
        return seconds

    for row in rows:
        prefill += row.prompt / rates.prefill
        if row.output > 1:
            if len(ends) == batch:
                decode += advance()
            heapq.heappush(ends, now + row.output - 1)
    while ends:
        decode += advance()
    return prefill, decode


@dataclass(frozen=True)
class ShardTimes:
    """The time of shards of any size, for one kind of rows, worker and batch size.

    Shards of at most :data:`EXACT` rows are computed row by row. In larger ones, a row has its mean time in a full
    batch, and the drain at the end is that of :data:`SAMPLE` rows.

    Attributes:
        lengths: the rows.
        rates: the worker.
        batch: texts at a time.
        overhead: seconds of a shard apart from its rows: claim, journal, fsync and rename.
        seed: of the random rows.
    """

    lengths: Lengths
    rates: Rates
    batch: int
    overhead: float = 0.0
    seed: int = 0

    @cached_property
    def _sample(self) -> Sequence[Row]:
        return self.lengths.draw(max(SAMPLE, 8 * self.batch), random.Random(self.seed))

    @cached_property
    def row(self) -> tuple[float, float]:
        """Seconds of a row in a full batch: prefill and decode."""
        count = len(self._sample)
        steps = sum(max(0, row.output - 1) for row in self._sample)
        prefill = sum(row.prompt for row in self._sample) / count / self.rates.prefill
        return prefill, steps / count * self.rates.step(self.batch) / self.batch

    @cached_property
    def deviation(self) -> float:
        """Standard deviation of the seconds of a row."""
        step = self.rates.step(self.batch) / self.batch
        seconds = [row.prompt / self.rates.prefill + max(0, row.output - 1) * step for row in self._sample]
        mean = sum(seconds) / len(seconds)
        return sqrt(sum((value - mean) ** 2 for value in seconds) / len(seconds))

    @cached_property
    def drain(self) -> float:
        """Seconds that a shard loses at its end, when there are fewer rows than places in the batch."""
        return max(0.0, sum(batch_seconds(self._sample, self.rates, self.batch)) - len(self._sample) * sum(self.row))

    @cached_property
    def decode_share(self) -> float:
        """Part of a shard's time that is decode."""
        prefill, decode = self.row
        return decode / (prefill + decode)

    @property
    def in_flight(self) -> float:
        """Mean seconds of work in rows that are not finished, lost with a worker: half of a batch of rows."""
        return self.batch * sum(self.row) / 2

    def exact(self, rows: Sequence[Row]) -> float:
        """Return the seconds of a shard of these rows."""
        shared = self.lengths.shared / self.rates.prefill
        return sum(batch_seconds(rows, self.rates, self.batch)) + shared + self.overhead

    def seconds(self, rows: int, source: random.Random) -> float:
        """Return the seconds of a shard of ``rows`` random rows."""
        if rows <= EXACT:
            return self.exact(self.lengths.draw(rows, source))
        work = rows * sum(self.row) + sqrt(rows) * self.deviation * source.gauss(0, 1)
        return max(work, 0.0) + self.drain + self.lengths.shared / self.rates.prefill + self.overhead

    def slowdown(self, workers: int, bandwidth: float, interference: float, active: int) -> float:
        """Return how many times longer a shard takes when ``active`` of a socket's ``workers`` run.

        A decode step cannot be shorter than reading the weights of all of them at ``bandwidth`` GB/s. ``interference``
        is the loss of speed next to workers on all other cores, for all other reasons.
        """
        step = self.rates.step(self.batch)
        floor = active * self.rates.gigabytes / bandwidth
        others = (active - 1) / (workers - 1) if workers > 1 else 0.0
        return (1 + self.decode_share * (max(step, floor) / step - 1)) * (1 + interference * others)


EXACT = 200
"""Rows up to which a shard is computed row by row."""

SAMPLE = 1000
"""Random rows that give the means of larger shards; more for batches of more than 125 texts."""
