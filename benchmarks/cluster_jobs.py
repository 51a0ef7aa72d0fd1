"""Jobs to simulate: rows, a cluster, shards; and the outcome with its price."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import ceil

from cluster_events import Simulation
from cluster_parts import Cluster, Faults, Outcome, Policy, Shard
from cluster_rates import MEASURED, Lengths, Rates, Row, ShardTimes

LABEL = Lengths(prompt=500, output=10)
"""Classify: 500 tokens in, 10 out."""

REWRITE = Lengths(prompt=100, output=350, shared=600)
"""Rewrite: 700 tokens in, of which 600 are an instruction in common, 350 out."""

LENGTHS = {"label": LABEL, "rewrite": REWRITE}


@dataclass(frozen=True)
class Job:
    """A job and the machines that run it.

    Attributes:
        lengths: tokens of the rows.
        rows: number of rows.
        shard_rows: rows of a shard.
        rates: a worker, as measured.
        threads: threads of a worker.
        efficiency: speed per thread that each doubling of the threads keeps.
        batch: texts at a time in a worker.
        cluster, faults, policy: see their classes; the cluster's slowdown and the texts in flight are set here.
        bandwidth: GB/s of a socket.
        interference: loss of speed of a worker next to workers on all other cores of its socket.
        imbalance: standard deviation / mean of the work of a shard, relative to the estimate of the plan.
        overhead: seconds of each shard apart from its rows.
        price: of a core-hour.
        seed: of all random numbers.
    """

    lengths: Lengths = LABEL
    rows: int = 10**9
    shard_rows: int = 10_000
    rates: Rates = MEASURED["documented-avx512_vnni"]
    threads: int = 4
    efficiency: float = 0.86
    batch: int = 32
    cluster: Cluster = field(default_factory=lambda: Cluster(nodes=100, workers=16, cores=64, load=2.0, restart=0.1))
    faults: Faults = field(default_factory=Faults)
    policy: Policy = field(default_factory=Policy)
    bandwidth: float = 300.0
    interference: float = 0.05
    imbalance: float = 0.1
    overhead: float = 0.05
    price: float = 0.02
    seed: int = 1

    @property
    def times(self) -> ShardTimes:
        """The time of this job's shards."""
        return _times(self.lengths, self._worker, self.batch, self.overhead, self.seed)

    @property
    def _worker(self) -> Rates:
        return self.rates.with_threads(self.threads, self.efficiency)

    def slowdown(self, active: int) -> float:
        """Return how many times longer work takes next to ``active`` workers of a socket."""
        workers = ceil(self.cluster.workers / self.cluster.sockets)
        return self.times.slowdown(workers, self.bandwidth, self.interference, active)

    def shards(self) -> list[Shard]:
        """Return the plan; the last shard has the rows that are left."""
        source = random.Random(f"{self.seed} shards")
        times = self.times
        shards = []
        for start in range(0, self.rows, self.shard_rows):
            rows = min(self.shard_rows, self.rows - start)
            work = times.seconds(rows, source)
            if self.imbalance:  # a gamma distribution of mean 1
                shape = 1 / self.imbalance**2
                work *= source.gammavariate(shape, 1 / shape)
            shards.append(Shard(rows, work))
        return shards

    def simulate(self, shards: Sequence[Shard] | None = None) -> Outcome:
        """Return the outcome of the job, or of other ``shards`` under its conditions."""
        cluster = replace(self.cluster, slowdown=self.slowdown)
        policy = replace(self.policy, in_flight=self.times.in_flight)
        planned = self.shards() if shards is None else shards
        return Simulation(planned, cluster, self.faults, policy, seed=self.seed).run()

    def cost(self, outcome: Outcome) -> float:
        """Return the price of all core-hours."""
        return outcome.core_seconds / 3600 * self.price

    def ideal(self, outcome: Outcome) -> float:
        """Return the seconds of the job on the nodes without faults, loading, stragglers and tail."""
        workers = self.cluster.nodes * self.cluster.workers
        return outcome.work * self.slowdown(ceil(self.cluster.workers / self.cluster.sockets)) / workers


@lru_cache(maxsize=64)
def _times(lengths: Lengths, rates: Rates, batch: int, overhead: float, seed: int) -> ShardTimes:
    return ShardTimes(lengths, rates, batch, overhead, seed)


@dataclass(frozen=True)
class Measured:
    """A run that was measured, and the job that predicts it.

    Attributes:
        title: the run.
        seconds: each measurement.
        job: the conditions; one node is the machine.
        shards: number of shards of equal rows.
        fitted: whether a rate of the job was fitted to this run, so that it predicts nothing.
    """

    title: str
    seconds: tuple[float, ...]
    job: Job
    shards: int
    fitted: bool = False

    @property
    def middle(self) -> float:
        """Median of the measurements."""
        ordered = sorted(self.seconds)
        half = len(ordered) // 2
        return (ordered[half] + ordered[~half]) / 2

    def predict(self) -> float:
        """Return the seconds that the simulation gives."""
        job = self.job
        rows = job.lengths.draw(job.rows, random.Random(job.seed))
        size = ceil(len(rows) / self.shards)
        parts: list[list[Row]] = [rows[start : start + size] for start in range(0, len(rows), size)]
        return job.simulate([Shard(len(part), job.times.exact(part)) for part in parts]).makespan
