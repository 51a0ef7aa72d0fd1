"""Claims: which process works on which shard, for several runs of one job, also on several machines.

A claim is a small file in the job's folder, made so that only one process can make it. Its maker touches it every few
seconds. A claim that was not touched for :data:`EXPIRES_SECONDS` belongs to a process or machine that is gone; anybody
may take it over. If such a process was only slow, a shard is made twice, and both results are the same bytes.

Times of claims are those of the file system, so that clocks of machines may differ.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

TOUCH_SECONDS = 5.0
"""How often a process touches its claims."""

EXPIRES_SECONDS = 120.0
"""From this age on, a claim that was not touched is nobody's."""

_MAX_BYTES = 4096  # of a claim
_SUFFIX = ".claim"


@functools.cache
def this_host() -> str:
    """A name of this machine since it was started, and of this process's numbering of processes."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
        processes = str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        boot = processes = ""
    return ":".join(part for part in (socket.gethostname(), boot, processes) if part)


def start_of(process: int) -> int | None:
    """When a process of this machine started, in ticks; None: there is none of this number.

    A number is used again for later processes, which differ by this.
    """
    try:
        fields = Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()
        return None if fields[0] in (b"Z", b"X") else int(fields[19])
    except (OSError, ValueError, IndexError):
        return None


@dataclass(frozen=True)
class Claim:
    """What a claim's file holds.

    Attributes:
        host, process, started: whose it is, see :func:`this_host` and :func:`start_of`.
        worker: number of the worker there.
        rows, tokens: finished rows of the shard and tokens of their texts, of all attempts.
        since: seconds for which it has been held, without the time since it was last touched.
        idle: seconds without progress, as of then.
        age: seconds since it was touched.
    """

    host: str
    process: int
    started: int
    worker: int
    rows: int = 0
    tokens: int = 0
    since: float = 0.0
    idle: float = 0.0
    age: float = 0.0

    @property
    def expired(self) -> bool:
        """Whether its process is gone."""
        if self.host == this_host() and self.started:
            return start_of(self.process) != self.started
        return self.age >= EXPIRES_SECONDS

    def __str__(self) -> str:
        return f"worker {self.worker} of process {self.process} on {self.host.partition(':')[0]}"


class Claims:
    """The claims of a job, and those of this process.

    Args:
        folder: where they are; it is made with the first one.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process = os.getpid()
        self._started = start_of(self._process) or 0
        self._own: dict[int, Claim] = {}

    def path(self, shard: int) -> Path:
        """The file of a shard's claim."""
        return self._folder / f"{shard:05d}{_SUFFIX}"

    def take(self, shard: int, worker: int) -> bool:
        """Claim a shard for a worker of this process; False if it is another process's.

        Raises:
            OSError: the file cannot be written.
        """
        claim = Claim(this_host(), self._process, self._started, worker)
        self._folder.mkdir(parents=True, exist_ok=True)
        for _ in range(2):
            try:
                descriptor = os.open(self.path(shard), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            except FileExistsError:
                found = self.read(shard)
                if found is not None and not found.expired:
                    return False
                self._discard(shard, found)
            else:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(_encoded(claim))
                self._own[shard] = claim
                return True
        return False

    def _discard(self, shard: int, expired: Claim | None) -> None:
        """Remove an expired claim. Renamed first: of several processes one succeeds."""
        aside = self.path(shard).with_suffix(f".{uuid.uuid4().hex}")
        with contextlib.suppress(FileNotFoundError):
            self.path(shard).rename(aside)
            taken = self._read(aside)
            if expired is not None and taken is not None and not taken.expired:
                with contextlib.suppress(OSError):  # a new one of another process, which was quicker: put it back
                    os.link(aside, self.path(shard))
            aside.unlink()

    def touch(self, shard: int, rows: int, tokens: int, since: float, idle: float) -> None:
        """Tell of the progress of an own claim, and that its process is alive.

        Raises:
            OSError: the file cannot be written.
        """
        claim = replace(self._own[shard], rows=rows, tokens=tokens, since=round(since, 1), idle=round(idle, 1))
        aside = self.path(shard).with_suffix(f".{self._process}")
        aside.write_bytes(_encoded(claim))
        aside.replace(self.path(shard))
        self._own[shard] = claim

    def release(self, shard: int) -> None:
        """Give up an own claim. Another process may have taken it over: that one stays."""
        own = self._own.pop(shard, None)
        found = self._read(self.path(shard), aged=False)
        if own is None or found is None or (found.host, found.process) != (own.host, own.process):
            return
        with contextlib.suppress(OSError):  # it expires
            self.path(shard).unlink()

    def release_all(self) -> None:
        """Give up all own claims."""
        for shard in list(self._own):
            self.release(shard)

    def read(self, shard: int) -> Claim | None:
        """The claim of a shard; None if there is none. One that cannot be understood counts by its age alone."""
        return self._read(self.path(shard))

    def _read(self, path: Path, aged: bool = True) -> Claim | None:
        try:
            with path.open("rb") as file:
                data, touched = file.read(_MAX_BYTES), os.fstat(file.fileno()).st_mtime
        except OSError:
            return None
        return _decoded(data, max(0.0, self._now() - touched) if aged else 0.0)

    def all(self) -> Iterator[tuple[int, Claim]]:
        """All claims that have not expired, by shard."""
        try:
            names = sorted(path.name for path in self._folder.iterdir())
        except OSError:
            return
        for name in names:
            number = name.removesuffix(_SUFFIX)
            if name.endswith(_SUFFIX) and number.isdecimal():
                claim = self.read(int(number))
                if claim is not None and not claim.expired:
                    yield int(number), claim

    def _now(self) -> float:
        """The file system's time, or this machine's if nothing can be written."""
        probe = self._folder / f".{os.getpid()}.{uuid.uuid4().hex[:8]}"
        try:
            descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError:
            return time.time()
        try:
            return os.fstat(descriptor).st_mtime
        finally:
            os.close(descriptor)
            with contextlib.suppress(OSError):
                probe.unlink()


def _encoded(claim: Claim) -> bytes:
    fields = asdict(claim)
    del fields["age"]
    return json.dumps(fields).encode() + b"\n"


def _decoded(data: bytes, age: float) -> Claim:
    kinds: dict[str, Any] = {
        "host": str, "process": int, "started": int, "worker": int,
        "rows": int, "tokens": int, "since": float, "idle": float,
    }  # fmt: skip
    try:
        found = json.loads(data)
        return Claim(**{name: kind(found[name]) for name, kind in kinds.items()}, age=age)
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):  # cut off by a full disk, or not pyml's
        return Claim("", 0, 0, 0, age=age)
