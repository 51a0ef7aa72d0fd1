"""What the commands for jobs share: their argument, and the progress of a run on stderr."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .output import Output, ProgressBar, duration

if TYPE_CHECKING:
    from types import TracebackType

    from ..jobs.progress import Snapshot

F = TypeVar("F", bound=Callable[..., Any])

_SHOW_SECONDS = 0.5


def job_folder(function: F) -> F:
    """The argument FOLDER: that of a job."""
    return click.argument("folder", metavar="FOLDER")(function)


def print_lines(lines: Iterable[str]) -> None:
    """Print on stdout.

    Raises:
        OutputClosed: the reader has closed it. PymlError: it cannot be written.
    """
    output = Output()
    for line in lines:
        output.write(line + "\n")


class JobBar:
    """The progress of a run: a bar on a terminal, elsewhere a line every few seconds.

    Args:
        wanted: whether anything is shown.
    """

    def __init__(self, wanted: bool) -> None:
        self._bar = ProgressBar("Job", wanted, 8)
        self._shown = float("-inf")

    def __enter__(self) -> JobBar:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> None:
        self._bar.clear()

    def show(self, now: Snapshot) -> None:
        """Show the progress, at most twice a second."""
        if time.monotonic() - self._shown < _SHOW_SECONDS:
            return
        self._shown = time.monotonic()
        note = str(now)
        if self._bar.shown:
            left = "" if now.seconds_left is None else f", {duration(now.seconds_left)} left"
            note = (
                f"{now.rows_per_second:.1f} rows/s, {now.tokens_per_second:.0f} tok/s{left}, "
                f"{now.shards_done}/{now.shards} shards, {now.workers_alive} workers"
            )
        self._bar(now.rows_done, now.rows, note, now.seconds_left)

    def tell(self, line: str) -> None:
        """A warning between the progress."""
        from .. import logs

        self._bar.clear()
        logs.command.warning("%s", line)
