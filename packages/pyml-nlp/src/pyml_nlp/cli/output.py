"""stdout as a stream of UTF-8 whose reader may go away, and the progress bar on stderr."""

from __future__ import annotations

import os
import shutil
import sys
import time

SECONDS_A_LINE = 5.0
"""Time between lines of progress where stderr is no terminal."""


class OutputClosed(Exception):
    """The reader of stdout has closed it."""


class Output:
    """stdout, in UTF-8 whatever the locale, flushed at every write.

    Raises:
        PymlError: stdout is closed from the beginning.
    """

    def __init__(self) -> None:
        if sys.stdout is None:
            from pyml_core.errors import PymlError

            raise PymlError("stdout: it is closed, the text cannot be written")
        self._stream = sys.stdout.buffer
        self.terminal = sys.stdout.isatty()

    def write(self, text: str) -> None:
        """Write and flush.

        Raises:
            OutputClosed: the reader has closed it.
            PymlError: the text cannot be written (a full disk).
        """
        if not text:
            return
        try:
            self._stream.write(text.encode())
            self._stream.flush()
        except BrokenPipeError:
            _discard()
            raise OutputClosed from None
        except OSError as error:
            from pyml_core.errors import PymlError

            _discard()
            raise PymlError(f"stdout: the text cannot be written: {error.strerror}") from None


def _discard() -> None:
    """Send the rest of the buffer to /dev/null, so that the interpreter can flush it at its end."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


class ProgressBar:
    """The progress of long work on stderr, if it is ``wanted``.

    On a terminal it is a bar, which is taken away when it is complete or left. Elsewhere it is a line every few
    seconds, none for short work.

    Args:
        title: what is done.
        wanted: whether anything is shown.
        width: of the bar, in characters.

    Attributes:
        shown: whether it is a bar.
    """

    def __init__(self, title: str, wanted: bool = True, width: int = 30) -> None:
        self._title = title
        self._width = width
        self._wanted = wanted and sys.stderr is not None
        self.shown = self._wanted and sys.stderr.isatty()
        self._last: tuple[int, str] | None = None
        self._start = self._told = time.monotonic()

    def __call__(self, done: float, total: float, note: str = "", left: float | None = None) -> None:
        """Show ``done`` of ``total``, and a note.

        Args:
            done, total: in any unit.
            note: shown after the bar, or in place of the percentage.
            left: seconds, for a line; None: as long as ``done`` has taken, in proportion.
        """
        percent = int(100 * done / max(total, 1e-9))
        if self.shown and (percent, note) != self._last:
            self._last = percent, note
            bar = "#" * (percent * self._width // 100)
            line = f"{self._title} [{bar:<{self._width}}] {percent:3d}% {note}".rstrip()
            width = shutil.get_terminal_size().columns - 1
            print(f"\r{line[:width]}\x1b[K", end="", file=sys.stderr, flush=True)
            if done >= total:
                self.clear()
        elif self._wanted and not self.shown and done < total:
            self._tell(done, total, note or f"{percent} %", left)

    def _tell(self, done: float, total: float, text: str, left: float | None) -> None:
        now = time.monotonic()
        if now - self._told >= SECONDS_A_LINE and done > 0:
            self._told = now
            if left is None:
                left = (now - self._start) * (total - done) / done
            print(f"{self._title}: {text}, {duration(left)} left", file=sys.stderr, flush=True)

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def clear(self) -> None:
        """Take the bar away; the next call shows it again."""
        if self._last is not None:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._last = None


def duration(seconds: float) -> str:
    """``12 s``, ``4 min``, ``2.5 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
