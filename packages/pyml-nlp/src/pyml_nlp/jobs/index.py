"""The back end of array jobs: process ``i`` of ``N`` makes the shards ``i``, ``i + N``, ``i + 2 N`` and so on.

Nothing coordinates the processes: each needs its number and the job's folder, which they share. It suits Slurm's job
arrays, Indexed Jobs of Kubernetes, and anything else that starts N processes and those that fail again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from pyml_core.errors import quoted

from ..errors import ArgumentError
from ..values import whole
from .crew import Show, Tell
from .folder import JobFolder
from .local import STALL_SECONDS, Local
from .stopping import Control

MAX_TASKS = 1 << 20
SLURM = "SLURM_ARRAY_TASK_ID"
KUBERNETES = "JOB_COMPLETION_INDEX"


def from_environment(of: int | None, environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """The index of this process and the number of processes, as a scheduler has set them.

    Args:
        of: the number of processes; None: that of a Slurm array whose indices begin with 0.
        environment: the variables.

    Raises:
        ArgumentError: the variables are missing or are not numbers, or ``of`` is needed.
    """
    name = next((name for name in (SLURM, KUBERNETES) if environment.get(name)), None)
    if name is None:
        raise ArgumentError(f"must be given: neither {SLURM} nor {KUBERNETES} is set", "index")
    index = _variable(environment, name)
    if of is None and name == SLURM and "SLURM_ARRAY_TASK_COUNT" in environment:
        count = _variable(environment, "SLURM_ARRAY_TASK_COUNT")
        first = _variable(environment, "SLURM_ARRAY_TASK_MIN")
        if first == 0 and _variable(environment, "SLURM_ARRAY_TASK_MAX") == count - 1:
            of = count
    if of is None:
        raise ArgumentError(f"must be given: {name} does not tell how many processes there are", "of")
    return index, of


def _variable(environment: Mapping[str, str], name: str) -> int:
    value = environment.get(name, "")
    if not value.isdecimal() or len(value) > 9:
        raise ArgumentError(f"{name}: expected a whole number, got {quoted(value)}")
    return int(value)


class Index(Local):
    """Makes every N-th shard.

    Args:
        index: number of this process, from 0.
        of: number of processes.
        workers, threads, pin, together, control, show, tell, stall_seconds: as of :class:`.Local`.

    Raises:
        ArgumentError: ``index`` is not below ``of``; or as of Local.
    """

    def __init__(
        self,
        index: int,
        of: int,
        workers: int | None = None,
        threads: int | None = None,
        pin: str = "auto",
        together: int | None = None,
        *,
        control: Control | None = None,
        show: Show | None = None,
        tell: Tell | None = None,
        stall_seconds: float = STALL_SECONDS,
    ) -> None:
        super().__init__(
            workers, threads, pin, together, control=control, show=show, tell=tell, stall_seconds=stall_seconds
        )
        self.of = whole("of", of, 1, MAX_TASKS)
        self.index = whole("index", index, 0)
        if self.index >= self.of:
            raise ArgumentError(f"must be below the number of processes {self.of}, got {self.index}", "index")

    def own_shards(self, job: JobFolder) -> range:
        """The shards of this process."""
        return range(self.index, job.n_shards, self.of)
