"""Back ends: they only decide which process works on which shard. Files tell everything else."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from pyml_core.errors import quoted

from ..errors import ArgumentError
from .folder import JobFolder
from .results import ShardResult
from .shard import ShardRunner

if TYPE_CHECKING:
    from .folder import JobModel

BACKENDS = {
    "here": "pyml_nlp.jobs.backends:Here",
    "local": "pyml_nlp.jobs.local:Local",
    "index": "pyml_nlp.jobs.index:Index",
    "ray": "pyml_nlp.jobs.ray_host:Ray",
}
"""Names of back ends, and their classes."""


class Backend(Protocol):
    """Runs shards."""

    def run(self, job: JobFolder, shards: Sequence[int]) -> Iterator[ShardResult]:
        """Run shards, and yield their results as they end. Closing the iterator ends the work.

        Args:
            job: the job, whose identity was checked.
            shards: indices of the shards that are not done, those with the most tokens first.
        """
        ...


class Here:
    """Runs shards in this process, one after the other.

    Args:
        threads: number of threads; None: what suits the machine.
        together: most rows at a time; None: the default.
        lm: the job's model, if it is loaded already.
    """

    def __init__(self, threads: int | None = None, together: int | None = None, lm: JobModel | None = None) -> None:
        self._threads = threads
        self._together = together
        self._lm = lm

    def run(self, job: JobFolder, shards: Sequence[int]) -> Iterator[ShardResult]:
        """See :meth:`Backend.run`."""
        if not shards:
            return
        lm = job.load(self._threads) if self._lm is None else self._lm
        try:
            runner = ShardRunner(job, lm, self._together)
            for shard in shards:
                yield runner.run(shard)
        finally:
            if self._lm is None:
                lm.close()


def make(name: str, **options: Any) -> Backend:
    """The back end of a name.

    Raises:
        ArgumentError: the name or an option is unknown.
        PymlError: the back end needs a package that is not installed.
    """
    if name not in BACKENDS:
        raise ArgumentError(f"must be one of {', '.join(BACKENDS)}, got {quoted(name)}", "backend")
    module, _, kind = BACKENDS[name].partition(":")
    made: Any = getattr(import_module(module), kind)
    known = inspect.signature(made).parameters
    unknown = next((option for option in options if option not in known), None)
    if unknown is not None:
        raise ArgumentError(f"unknown option {quoted(unknown)} of back end {name}: expected one of {', '.join(known)}")
    backend: Backend = made(**options)
    return backend
