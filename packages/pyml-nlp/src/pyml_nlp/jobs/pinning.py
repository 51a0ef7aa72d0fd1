"""The CPUs of this machine, and how the workers of a job share them.

Only CPUs in this process's affinity mask are used, which Slurm and CPU sets of control groups reduce. The quota of a
control group bounds how many threads all workers have together.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from pyml_core.cpu import default_threads
from pyml_core.errors import quoted

from ..errors import ArgumentError
from ..values import whole

SYSTEM = Path("/sys/devices/system")

MODES = ("auto", "cores", "none")
"""``auto``: each worker has an equal part of the CPUs, whole NUMA nodes and cores where possible. ``cores``: each
thread has a CPU, of a core of its own if there are as many. ``none``: the system decides."""

MAX_WORKERS = 1024
_MAX_CPUS = 1 << 16  # of a list in a file


@dataclass(frozen=True)
class Cpu:
    """A logical CPU.

    Attributes:
        number: of the system.
        node: its NUMA node; 0 where there is only one.
        cache: the lowest CPU with which it shares its last cache.
        core: the lowest CPU of its physical core.
    """

    number: int
    node: int
    cache: int
    core: int


@dataclass(frozen=True)
class Place:
    """Where a worker runs.

    Attributes:
        cpus: to which its threads are bound; None: to none.
        threads: how many it has.
    """

    cpus: tuple[int, ...] | None
    threads: int

    def enter(self) -> None:
        """Bind this process, whose other threads have not started yet, to the CPUs."""
        if self.cpus is not None:
            os.sched_setaffinity(0, self.cpus)

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'' if self.threads == 1 else 's'}"
        return threads if self.cpus is None else f"{threads} on CPU {ranges(self.cpus)}"


def allowed_cpus(system: Path = SYSTEM) -> list[Cpu]:
    """The CPUs that this process may use: those of one node, cache and core side by side."""
    if not hasattr(os, "sched_getaffinity"):
        return [Cpu(number, 0, 0, number) for number in range(os.cpu_count() or 1)]
    nodes = _nodes(system)
    found = [_cpu(number, nodes.get(number, 0), system) for number in os.sched_getaffinity(0)]
    return sorted(found, key=lambda cpu: (cpu.node, cpu.cache, cpu.core, cpu.number))


def _nodes(system: Path) -> dict[int, int]:
    """The NUMA node of each CPU."""
    return {
        cpu: int(folder.name.removeprefix("node"))
        for folder in sorted(system.glob("node/node[0-9]*"))
        for cpu in _cpus_in(folder / "cpulist")
    }


def _cpu(number: int, node: int, system: Path) -> Cpu:
    folder = system / f"cpu/cpu{number}"
    caches = sorted(folder.glob("cache/index[0-9]*"))
    cache = min(_cpus_in(caches[-1] / "shared_cpu_list"), default=number) if caches else 0
    core = min(_cpus_in(folder / "topology/thread_siblings_list"), default=number)
    return Cpu(number, node, cache, core)


def _cpus_in(path: Path) -> list[int]:
    """The CPUs that a file of the system lists as in ``0-3,8-11``; none if it cannot be read."""
    try:
        parts = [part.partition("-") for part in path.read_text().strip().split(",") if part]
        bounds = [(int(first), int(last or first)) for first, _, last in parts]
    except (OSError, ValueError):
        return []
    return [cpu for first, last in bounds for cpu in range(first, min(last + 1, first + _MAX_CPUS))]


def ranges(cpus: Sequence[int]) -> str:
    """``0-3,8``: the CPUs as the system lists them."""
    found = []
    for _, run in groupby(enumerate(sorted(cpus)), lambda pair: pair[1] - pair[0]):
        numbers = [cpu for _, cpu in run]
        found.append(f"{numbers[0]}-{numbers[-1]}" if len(numbers) > 1 else str(numbers[0]))
    return ",".join(found)


def places(
    workers: int | None = None,
    threads: int | None = None,
    pin: str = "auto",
    *,
    cpus: Sequence[Cpu] | None = None,
    usable: int | None = None,
) -> list[Place]:
    """Where the workers of this machine run.

    Args:
        workers: how many; None: one for each NUMA node, as far as the threads suffice.
        threads: of each worker; None: as many as all workers have CPUs for, and the control group's quota allows.
        pin: one of :data:`MODES`.
        cpus, usable: in place of this machine's CPUs and of the number of them that the quota allows.

    Raises:
        ArgumentError: a number out of its range, an unknown ``pin``, or ``cores`` with fewer CPUs than threads.
    """
    if pin not in MODES:
        raise ArgumentError(f"must be {', '.join(MODES[:-1])} or {MODES[-1]}, got {quoted(pin)}", "pin")
    cpus = allowed_cpus() if cpus is None else cpus
    usable = min(default_threads() if usable is None else usable, len(cpus))
    if threads is not None:
        threads = whole("threads", threads, 1)
    if workers is None:
        workers = max(1, min(len({cpu.node for cpu in cpus}), usable // (threads or 1)))
    workers = whole("workers", workers, 1, MAX_WORKERS)
    threads = threads or max(1, usable // workers)
    if pin == "cores":
        return [Place(part, threads) for part in _own_cores(cpus, workers, threads)]
    if pin == "none" or workers == 1 or workers * threads > len(cpus):
        return [Place(None, threads)] * workers
    return [Place(part, threads) for part in _parts_of(cpus, _shares(cpus, workers, threads))]


def _own_cores(cpus: Sequence[Cpu], workers: int, threads: int) -> list[tuple[int, ...]]:
    """``threads`` CPUs for each worker, those of one node where possible, and one a core where there are enough."""
    if workers * threads > len(cpus):
        problem = f"needs a CPU for each thread, got {workers} x {threads} threads on {len(cpus)} CPUs"
        raise ArgumentError(f"'cores' {problem}", "pin")
    cores = [next(siblings) for _, siblings in groupby(cpus, lambda cpu: (cpu.node, cpu.core))]
    free = list(cores if workers * threads <= len(cores) else cpus)
    found = []
    for _ in range(workers):
        nodes = [list(group) for _, group in groupby(free, lambda cpu: cpu.node)]
        part = next((node[:threads] for node in nodes if len(node) >= threads), free[:threads])
        found.append(tuple(sorted(cpu.number for cpu in part)))
        free = [cpu for cpu in free if cpu not in part]
    return found


def _parts_of(cpus: Sequence[Cpu], sizes: Sequence[int]) -> list[tuple[int, ...]]:
    """Consecutive parts of these sizes."""
    found, start = [], 0
    for size in sizes:
        found.append(tuple(sorted(cpu.number for cpu in cpus[start : start + size])))
        start += size
    return found


def _shares(cpus: Sequence[Cpu], workers: int, threads: int) -> list[int]:
    """How many CPUs each worker has: each node's workers share the whole node, if workers fit into nodes evenly."""
    sizes = [len(list(group)) for _, group in groupby(cpus, lambda cpu: cpu.node)]
    each, more = divmod(workers, len(sizes))
    counts = [each + (index < more) for index in range(len(sizes))]
    if each and all(size >= count * threads for size, count in zip(sizes, counts, strict=True)):
        return [share for size, count in zip(sizes, counts, strict=True) for share in _equal(size, count)]
    return _equal(len(cpus), workers)


def _equal(total: int, count: int) -> list[int]:
    """``count`` whole numbers of this sum that differ by 1 at most."""
    each, more = divmod(total, count)
    return [each + (index < more) for index in range(count)]
