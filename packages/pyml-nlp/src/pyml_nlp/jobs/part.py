"""The results of a shard that is not finished: lines in the order in which rows end, which survive the process.

The first line names the job; the others are ``INDEX<tab>RESULT``, the result as a line of JSON. Each is written at
once, so that only what was under way is lost with a process. The file is locked: one process works on it at a time.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from .errors import ShardBusy
from .results import QUARANTINED, encode
from .store import named

_LINE = re.compile(rb"(\d{1,12})\t(\{.*\})\n", re.DOTALL)


class Part:
    """Results of a shard that is not finished; those of an earlier process are kept.

    Args:
        path: of the file, which need not exist.
        digest: of the job's manifest: results of another job are dropped.

    Attributes:
        done: where the results of rows are in the file, offset and length, by their indices.
        errors, quarantined, prompt_tokens, tokens: sums over these rows.

    Raises:
        ShardBusy: another process has the file.
        JobError: it cannot be read or written.
    """

    def __init__(self, path: Path, digest: str) -> None:
        self._path = path
        self.done: dict[int, tuple[int, int]] = {}
        self.errors = self.quarantined = self.prompt_tokens = self.tokens = 0
        head = f"pyml-part {digest}\n".encode()
        with named(str(path), "written"):
            path.parent.mkdir(
                mode=0o700 if path.parent.parent.name.startswith("pyml-jobs-") else 0o777, parents=True, exist_ok=True
            )
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                self._lock()
                self._end = self._read(head)
                os.ftruncate(self._file, self._end)
                if not self._end:
                    self._write(head)
            except BaseException:
                os.close(self._file)
                raise

    @property
    def rows(self) -> int:
        """Number of rows that have ended."""
        return len(self.done)

    def add(self, index: int, result: dict[str, Any]) -> None:
        """Write the result of a row. Raises JobError if that fails; the file keeps its whole lines."""
        start = f"{index}\t".encode()
        line = encode(result)
        with named(str(self._path), "written"):
            offset = self._end + len(start)
            self._write(start + line + b"\n")
        self._count(index, result, offset, len(line))

    def lines(self) -> Iterator[bytes]:
        """The results in the order of the rows, as lines without their newlines."""
        for index in sorted(self.done):
            offset, length = self.done[index]
            yield os.pread(self._file, length, offset)

    def remove(self) -> None:
        """Delete the file."""
        with named(str(self._path), "removed"):
            self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file, which frees it for other processes."""
        os.close(self._file)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ShardBusy(f"{self._path}: another process is working on this shard") from None

    def _read(self, head: bytes) -> int:
        """Take up whole lines from the beginning of the file, and return where they end."""
        with os.fdopen(os.dup(self._file), "rb") as file:
            file.seek(0)
            if file.readline() != head:
                return 0
            end = len(head)
            for line in file:
                match = _LINE.fullmatch(line)
                result = None
                if match is not None:
                    with suppress(ValueError):
                        result = json.loads(match[2])
                if match is None or not isinstance(result, dict):
                    break  # cut short by a crash: what follows is not to be trusted
                self._count(int(match[1]), result, end + match.start(2), len(match[2]))
                end += len(line)
        return end

    def _write(self, data: bytes) -> None:
        """Write at the end: all or nothing."""
        left, offset = memoryview(data), self._end
        try:
            while left:
                count = os.pwrite(self._file, left, offset)
                left, offset = left[count:], offset + count
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._file, self._end)
            raise
        self._end = offset

    def _count(self, index: int, result: dict[str, Any], offset: int, length: int) -> None:
        if index in self.done:
            return
        self.done[index] = offset, length
        error = result.get("error")
        self.errors += error is not None
        self.quarantined += isinstance(error, str) and error.startswith(QUARANTINED)
        self.prompt_tokens += int(result.get("prompt_tokens", 0))
        self.tokens += int(result.get("tokens", 0))
