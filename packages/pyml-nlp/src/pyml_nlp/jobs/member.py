"""A worker as its parent sees it: a forked process, its pipes, and what it is doing."""

from __future__ import annotations

import json
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any, NoReturn

from .board import Board
from .pinning import Place

FIRST_DELAY = 0.1
LAST_DELAY = 30.0
"""Seconds until a worker that has died is started again, from death to death without progress."""

CRASHES = frozenset({signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE})
"""Signals of a process that has done something wrong itself."""

Work = Callable[[int, int], NoReturn]
"""What a child does, with its ends of the pipes: for commands and for reports."""


class Member:
    """A worker of a crew.

    Args:
        number: of the worker.
        place: where it runs.
        board: shared with it.

    Attributes:
        process: its number; None: it is not running.
        shard: that it has; None: none.
        since: when it got the shard.
        moved: when it last told of progress.
        start_at: when it may be started.
        deaths: in succession, without progress.
        stall_told: seconds without progress when its shard was last named.
        killed: whether its parent has killed it.
    """

    def __init__(self, number: int, place: Place, board: Board) -> None:
        self.number = number
        self.place = place
        self._board = board
        self.process: int | None = None
        self.shard: int | None = None
        self.since = self.moved = self.start_at = 0.0
        self.deaths = 0
        self.stall_told = 0.0
        self.killed = False
        self._commands = self._reports = -1
        self._moves = 0
        self._buffer = b""

    def __str__(self) -> str:
        return f"worker {self.number} (process {self.process})"

    @property
    def reports(self) -> int:
        """The descriptor to read its reports from."""
        return self._reports

    def start(self, work: Work, others: Iterator[Member]) -> None:
        """Fork it. The child closes the parent's ends of all pipes, or no worker would see the parent's end."""
        self._board.begin(self.number, -1)
        commands, self._commands = os.pipe()
        self._reports, reports = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # about threads: pyml's survive a fork
            process = os.fork()
        if process == 0:
            try:
                for member in others:
                    member.close()
                os.close(self._commands)
                os.close(self._reports)
                self.place.enter()
                work(commands, reports)
            finally:
                os._exit(1)
        os.close(commands)
        os.close(reports)
        self.process, self.shard, self._buffer = process, None, b""

    def give(self, shard: int) -> None:
        """Let it make a shard."""
        self.shard, self._moves = shard, 0
        self.since = self.moved = monotonic()
        self.stall_told = 0.0
        self._board.begin(self.number, shard)
        with suppress(OSError):  # it has died, which shows next
            os.write(self._commands, b"%d\n" % shard)

    def look(self) -> None:
        """See whether it has told of progress."""
        moves = self._board.cell(self.number).moves
        if moves != self._moves:
            self._moves, self.moved = moves, monotonic()

    @property
    def has_progress(self) -> bool:
        """Whether rows have been finished since it got its shard."""
        cell = self._board.cell(self.number)
        return cell.rows > cell.resumed_rows

    def read(self) -> tuple[list[dict[str, Any]], bool]:
        """Its reports, and whether it is at its end."""
        data = os.read(self._reports, 1 << 16)
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        return [json.loads(line) for line in lines], not data

    def send(self, number: int) -> None:
        """Send it a signal."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.kill(self.process, number)

    def dismiss(self) -> None:
        """Let it end when it has nothing to do."""
        if self._commands >= 0:
            os.close(self._commands)
            self._commands = -1

    def reap(self) -> int:
        """Wait for its end, and return its exit code, negative for a signal."""
        assert self.process is not None
        _, status = os.waitpid(self.process, 0)
        self.close()
        self.process = None
        return os.waitstatus_to_exitcode(status)

    def put_off(self) -> None:
        """After a death: it is started again later, the later the more often it has died."""
        self.deaths = 1 if self.has_progress else self.deaths + 1
        self.start_at = monotonic() + min(FIRST_DELAY * 2 ** (self.deaths - 1), LAST_DELAY)

    def close(self) -> None:
        """Close the parent's ends of its pipes."""
        self.dismiss()
        if self._reports >= 0:
            os.close(self._reports)
            self._reports = -1


def reason_of(code: int, memory_kills: int) -> str:
    """What a process has died of.

    Args:
        code: its exit code, negative for a signal.
        memory_kills: processes that the system has killed meanwhile because memory was short.
    """
    if code >= 0:
        return f"exit code {code}"
    with suppress(ValueError):
        name = signal.Signals(-code).name
        return f"{name}, memory was short" if -code == signal.SIGKILL and memory_kills else name
    return f"signal {-code}"


def memory_kills() -> int:
    """How many processes this system has killed because memory was short; 0 where it does not tell."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0
