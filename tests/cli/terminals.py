"""A command on a terminal of its own."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

READY = b"\x1b[?2004h"
"""Written when the line editor begins to read: it turns bracketed paste on."""


def plain(text: bytes) -> str:
    """What a person sees: without escape sequences, lines as they end."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.decode()).replace("\r", "")


class Terminal:
    """A process on a terminal of its own, and all that it has written there.

    Attributes:
        process: the process.
        seen: what it has written since the last text that was waited for.
        side: the terminal, as the process sees it.
    """

    def __init__(self, process: Any, own: int, side: int) -> None:
        self.process = process
        self.side = side
        self._own = own
        self.seen = b""

    def type(self, text: bytes) -> None:
        """Type something."""
        os.write(self._own, text)

    def prompt(self) -> str:
        """Wait until the editor reads; returns what a person saw before."""
        return plain(self.wait_for(READY))

    def interrupt(self, answer: bytes) -> None:
        """Ctrl-C until it is answered."""
        for _ in range(20):
            self.process.send_signal(signal.SIGINT)
            if self._read_until(answer, 3):
                break
        self.wait_for(answer, 0)

    def wait_for(self, text: bytes, seconds: float = 60) -> bytes:
        """Read until this text arrives; returns the output before it, and forgets both."""
        assert self._read_until(text, seconds), (text, self.seen)
        before, _, self.seen = self.seen.partition(text)
        return before

    def _read_until(self, text: bytes, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while text not in self.seen:
            ready, _, _ = select.select([self._own], [], [], max(0, end - time.monotonic()))
            try:
                part = os.read(self._own, 65536) if ready else b""
            except OSError:  # no process has it open any more
                part = b""
            if not part:
                return False
            self.seen += part
        return True


@contextmanager
def chat(commands: Any, state: Path, *arguments: object, env: dict[str, str] | None = None) -> Iterator[Terminal]:
    """``pyml chat`` on a terminal; its history is in the folder ``state``."""
    own, side = pty.openpty()
    settings = {"TERM": "xterm", "XDG_STATE_HOME": str(state), **(env or {})}
    with commands.start("pyml", "chat", *arguments, stdin=side, stdout=side, stderr=side, env=settings) as process:
        try:
            yield Terminal(process, own, side)
        finally:
            process.kill()
            os.close(side)
            os.close(own)
