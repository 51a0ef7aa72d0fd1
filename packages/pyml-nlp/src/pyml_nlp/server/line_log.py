"""Lines of a log, written by a thread of its own: a reader that does not read stderr must not stop the event loop."""

from __future__ import annotations

import logging
from collections import deque
from threading import Event, Thread

MAX_LINES = 10_000
"""Most lines that wait to be written; further ones are dropped, and the log says how many were."""

_CLOSE_SECONDS = 1.0


class LineLog:
    """Writes lines to a logger at the level ``info``, in their order.

    Args:
        logger: of the lines.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._lines: deque[str | None] = deque()  # None: the end
        self._wake = Event()
        self._thread: Thread | None = None
        self._dropped = 0

    def write(self, line: str) -> None:
        """Write a line soon, without waiting."""
        if len(self._lines) >= MAX_LINES:
            self._dropped += 1
            return
        if self._dropped:
            self._lines.append(f"{self._dropped} lines were dropped")
            self._dropped = 0
        self._lines.append(line)
        self._wake.set()
        if self._thread is None:
            self._thread = Thread(target=self._run, name="pyml-log", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Write what is left, for a second at most."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._lines.append(None)
            self._wake.set()
            thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()  # before the look: a line that comes now wakes it again
            while self._lines:
                line = self._lines.popleft()
                if line is None:
                    return
                self._logger.info("%s", line)
