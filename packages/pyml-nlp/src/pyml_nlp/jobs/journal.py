"""Which rows were in flight when the process of a shard died, so that one that kills its process is found.

The journal is a text of lines that are appended: ``begin PROCESS``; ``row INDEX`` when a row is taken up; ``end
SECONDS`` when the attempt stops in order; ``died crash`` or ``died unknown`` if a parent has seen how the process died.
When a shard is taken up again, the past is summed up first: ``past INDEX DEATHS CRASHES ALONE``, ``seconds SECONDS``.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pyml_nn.files import new_file

from .folder import JobFolder
from .store import named

ENDING = ".attempts"

MAX_ATTEMPTS_WITHOUT_PROGRESS = 8
"""How often a back end gives a shard to a process again while no row ends."""

MAX_CRASHES, MAX_DEATHS = 2, 3
"""A row is tried alone before this many crashes of its process, or deaths of unknown cause."""

CRASHES_ALONE, DEATHS_ALONE = 1, 3
"""A row is quarantined after this many of them when it was alone: a kill from outside hits one of many rows that are
tried alone by chance, but hardly the same one three times."""


@dataclass(frozen=True)
class Deaths:
    """Deaths of processes that had a row in flight.

    Attributes:
        deaths: their number.
        crashes: those of them that the process caused itself.
        alone: those of them, successive and the last included, in which the row was the only one in flight.
    """

    deaths: int = 0
    crashes: int = 0
    alone: int = 0

    @property
    def quarantined(self) -> bool:
        """Whether the row is not tried again."""
        wanted = CRASHES_ALONE if self.crashes == self.deaths else DEATHS_ALONE
        return self.alone >= wanted and self.deaths >= self._limit

    @property
    def suspect(self) -> bool:
        """Whether the row is tried alone."""
        return self.deaths >= self._limit - 1

    @property
    def _limit(self) -> int:
        return MAX_CRASHES if self.crashes == self.deaths else MAX_DEATHS


class Journal:
    """The journal of a shard, for the process that works on it.

    Args:
        path: of the file, which need not exist.
        done: indices of the rows that have ended.

    Attributes:
        past: the deaths of the rows that have not ended.
        seconds: of earlier attempts that ended in order.

    Raises:
        JobError: it cannot be read or written.
    """

    def __init__(self, path: Path, done: Container[int]) -> None:
        self._path = path
        self.past: dict[int, Deaths] = {}
        self.seconds = 0.0
        with named(str(path), "read"), suppress(FileNotFoundError):
            self._read(path.read_text(errors="replace"), done)
        with named(str(path), "written"):
            with new_file(path) as file:
                for index, past in self.past.items():
                    file.write(f"past {index} {past.deaths} {past.crashes} {past.alone}\n".encode())
                file.write(f"seconds {self.seconds:.3f}\nbegin {os.getpid()}@{socket.gethostname()}\n".encode())
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def row(self, index: int) -> None:
        """A row is taken up."""
        self._append(f"row {index}\n")

    def end(self, seconds: float) -> None:
        """The attempt stops in order."""
        self._append(f"end {seconds:.3f}\n")

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _append(self, line: str) -> None:
        with named(str(self._path), "written"):
            os.write(self._file, line.encode())

    def _read(self, text: str, done: Container[int]) -> None:
        flying: list[int] = []
        dead, crashed = False, False
        for word, *values in _words(text):
            match word, values:
                case "past", [index, deaths, crashes, alone]:
                    self.past[int(index)] = Deaths(int(deaths), int(crashes), int(alone))
                case "seconds", [seconds]:
                    self.seconds = float(seconds)
                case "begin", _:
                    dead = True
                case "row", [index]:
                    flying.append(int(index))
                case "end", [seconds]:
                    dead = False
                    self.seconds += float(seconds)
                case "died", [cause]:
                    crashed = cause == "crash"
        self.past = {row: past for row, past in self.past.items() if row not in done}
        flying = [row for row in dict.fromkeys(flying) if row not in done]
        if dead:
            for row in flying:
                past = self.past.get(row, Deaths())
                n_alone = past.alone + 1 if len(flying) == 1 else 0
                self.past[row] = Deaths(past.deaths + 1, past.crashes + crashed, n_alone)


def _words(text: str) -> Iterator[list[str]]:
    """The words of each valid line; the last one may be cut short."""
    for line in text.split("\n")[:-1]:
        words = line.split()
        numbers = words[1:] if words and words[0] in ("past", "row", "seconds", "end") else []
        with suppress(ValueError):
            if words and all(float(number) >= 0 for number in numbers):
                yield words


def record_death(job: JobFolder, shard: int, crash: bool) -> None:
    """Say how the process that worked on a shard died, from its parent.

    Args:
        job: the job.
        shard: the shard that it worked on.
        crash: whether it was its own fault (SIGSEGV, an exit code), rather than a signal from outside or the loss of
            the machine.
    """
    _append_to(job.scratch_file(shard, ENDING), f"died {'crash' if crash else 'unknown'}\n")


def forgive(job: JobFolder, shard: int) -> None:
    """Say that a process was killed on purpose: its rows are not to blame."""
    _append_to(job.scratch_file(shard, ENDING), "end 0\n")


def _append_to(path: Path, line: str) -> None:
    with named(str(path), "written"), suppress(FileNotFoundError), _opened(path) as file:
        os.write(file, line.encode())


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        yield file
    finally:
        os.close(file)
