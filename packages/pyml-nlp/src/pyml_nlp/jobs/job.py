"""Jobs: many rows, made by any number of processes, and what has become of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .backends import Backend, make
from .folder import JobFolder
from .results import ShardResult
from .status import Status, status
from .verify import Report, verify


class Job(JobFolder):
    """A job, opened from its folder; see :class:`.JobFolder` for its attributes."""

    def run(self, backend: str | Backend = "local", **options: Any) -> Iterator[ShardResult]:
        """Run the shards that are not done.

        Args:
            backend: a name of :data:`.BACKENDS`: ``"local"`` is processes of this machine,
                ``"here"`` this one; or an object that is one.
            options: of the back end, such as ``threads``.

        Returns:
            An iterator of the results of shards, as they end. When it is at its end and all shards are done, so is the
            job. Closing it ends the work; another run goes on.

        Raises:
            IdentityError: this process would make other texts than the job wants. It is raised here.
            ArgumentError: an unknown back end or option.
            JobError: while iterating: an input cannot be read, or results cannot be written.
        """
        self.check_identity()
        made = make(backend, **options) if isinstance(backend, str) else backend
        return self._run(made)

    def _run(self, backend: Backend) -> Iterator[ShardResult]:
        yield from backend.run(self, self.pending())
        self.finish()

    def status(self) -> Status:
        """How far the job is, from its files; it may be running elsewhere.

        Raises:
            JobError: the folder cannot be read.
        """
        return status(self)

    def verify(self) -> Report:
        """Read all results, and count and compare everything again.

        Raises:
            JobError: the folder cannot be read.
        """
        return verify(self)
