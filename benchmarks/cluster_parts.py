"""The parts of a simulated job: machines, faults, policy, shards, workers and the outcome.

Seconds of *work* are those of a worker that has its socket to itself on a node of speed 1.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

DAY = 86_400.0
Tail = Literal["none", "copies", "split"]


def alone(active: int) -> float:
    """Slowdown of workers that share nothing."""
    return 1.0


@dataclass(frozen=True)
class Cluster:
    """Machines of one kind.

    Attributes:
        nodes: nodes at the start, and the number that replacements keep up.
        workers: workers of a node.
        cores: cores of a node, which are paid for.
        sockets: sockets of a node; workers are spread over them.
        load: seconds from the start of a node until its workers run.
        restart: seconds until a worker whose process was killed runs again; the node's weights stay in memory.
        slow: share of nodes that are stragglers.
        slow_speed: their speed.
        slowdown: by the number of active workers of a socket, how many times longer work takes.
    """

    nodes: int = 1
    workers: int = 1
    cores: int = 1
    sockets: int = 1
    load: float = 0.0
    restart: float = 0.0
    slow: float = 0.0
    slow_speed: float = 0.5
    slowdown: Callable[[int], float] = alone


@dataclass(frozen=True)
class Faults:
    """Faults of nodes, workers and rows.

    Attributes:
        losses: nodes lost without notice, per node and day.
        interruptions: nodes taken away with notice (spot instances), per node and day.
        notice: seconds from the notice to the end of the node.
        replacement: seconds until a replacement of a node starts to load.
        kills: times at which a worker's process is killed, and the worker's number.
        poison: rows that kill their worker's process whenever they run.
    """

    losses: float = 0.0
    interruptions: float = 0.0
    notice: float = 120.0
    replacement: float = 300.0
    kills: Sequence[tuple[float, int]] = ()
    poison: int = 0


@dataclass(frozen=True)
class Policy:
    """How shards get to workers.

    Attributes:
        index: node i of N has the shards i, i + N, ..., and there is no coordinator; otherwise workers pull shards.
        longest_first: the order of shards, otherwise that of the plan.
        tail: the work of idle workers when every shard is taken: none, second copies of running shards (speculative
            execution), or half of the rows that a running shard has left.
        claim: seconds until the claims of a lost node expire and its shards may be taken again. Those of a worker whose
            process ended are given back at once, as are those of a node in index mode.
        keep_part: a retry continues after the rows that the lost attempt has written; otherwise it starts again.
        attempts: deaths of a worker at one row before the row is quarantined.
        in_flight: seconds of work in unfinished rows of a running shard, which a loss always costs.
    """

    index: bool = False
    longest_first: bool = False
    tail: Tail = "none"
    claim: float = 120.0
    keep_part: bool = True
    attempts: int = 2
    in_flight: float = 0.0


@dataclass(eq=False)
class Shard:
    """Rows that one worker computes at a time; ``work`` and ``left`` in seconds."""

    rows: int
    work: float
    index: int = 0
    left: float = field(init=False)
    poison: float | None = None  # the work that is left where its row runs
    deaths: int = 0
    quarantined: int = 0
    done: bool = False
    lost_at: float | None = None
    running: list[Worker] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.left = self.work


@dataclass(eq=False)
class Socket:
    """Workers that share the bandwidth of memory."""

    workers: list[Worker] = field(default_factory=list)
    active: int = 0
    settled: int = 0  # active workers for which the rates are


@dataclass(eq=False)
class Worker:
    """A process, and the attempt that it makes: ``left`` of the shard at ``since``, with ``rate`` from then on."""

    number: int
    node: Node
    socket: Socket
    up: bool = True
    shard: Shard | None = None
    begun: float = 0.0
    left: float = 0.0
    since: float = 0.0
    rate: float = 1.0
    stop: float = 0.0
    version: int = 0


@dataclass(eq=False)
class Node:
    """A machine from its start to its end."""

    place: int
    speed: float
    start: float
    source: random.Random
    up: bool = True
    last: float = 0.0  # the end of its last work
    workers: list[Worker] = field(default_factory=list)


@dataclass(frozen=True)
class Outcome:
    """Measures of a simulated job.

    Attributes:
        makespan: seconds until the last shard is done.
        lost, duplicate: seconds of work that was done again, or twice.
        tail: seconds from the first worker that found no work to the end.
        core_seconds: core-seconds of all nodes, from their start to their last work.
        recovery: seconds from each loss of a running shard until a worker has it again.
    """

    finished: bool
    makespan: float
    rows: int
    quarantined: int
    shards: int
    attempts: int
    work: float
    lost: float
    duplicate: float
    tail: float
    core_seconds: float
    nodes: int
    losses: int
    interruptions: int
    recovery: tuple[float, ...]
