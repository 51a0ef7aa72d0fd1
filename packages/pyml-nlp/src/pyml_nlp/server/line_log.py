"""Lines of a log, written by a thread of its own: a reader that does not read stderr must not stop the event loop."""

from __future__ import annotations

import logging
from queue import SimpleQueue
from threading import Thread

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
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        self._thread: Thread | None = None
        self._dropped = 0

    def write(self, line: str) -> None:
        """Write a line soon, without waiting."""
        if self._lines.qsize() >= MAX_LINES:
            self._dropped += 1
            return
        if self._dropped:
            self._lines.put(f"{self._dropped} lines were dropped")
            self._dropped = 0
        self._lines.put(line)
        if self._thread is None:
            self._thread = Thread(target=self._run, name="pyml-log", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Write what is left, for a second at most."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._lines.put(None)
            thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            self._logger.info("%s", line)
