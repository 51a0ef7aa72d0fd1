"""Lines that are typed or piped, and the messages that they make."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import click

_FENCE = '"""'

ReadLine = Callable[[bool], str | None]
"""Returns the next line, None at the end of the input. Its argument: whether the line continues a text."""


def messages(read: ReadLine, interrupted: Callable[[], None]) -> Iterator[str]:
    """Texts: a line, lines that end in a backslash and the next one, or a fenced text.

    Args:
        read: returns the next line.
        interrupted: called at Ctrl-C, which drops what has been typed of a text.
    """
    while True:
        try:
            text = _message(read)
        except KeyboardInterrupt:
            interrupted()
        else:
            if text is None:
                return
            yield text


def _message(read: ReadLine) -> str | None:
    line = read(False)
    if line is None:
        return None
    if line.lstrip().startswith(_FENCE):
        return _fenced(line.lstrip()[len(_FENCE) :], read)
    parts = [line]
    while parts[-1].endswith("\\"):
        parts[-1] = parts[-1][:-1]
        following = read(True)
        if following is None:
            break
        parts.append(following)
    return "\n".join(parts)


def _fenced(first: str, read: ReadLine) -> str:
    if first.rstrip().endswith(_FENCE):  # on one line, or pasted whole
        return first.rstrip()[: -len(_FENCE)].strip("\n")
    parts = [first] if first.strip() else []
    while (line := read(True)) is not None:
        if line.rstrip().endswith(_FENCE):
            last = line.rstrip()[: -len(_FENCE)]
            return "\n".join([*parts, last] if last else parts)
        parts.append(line)
    return "\n".join(parts)


class Piped:
    """Lines from a pipe or file, or from a terminal while stdout is not one; UTF-8 whatever the locale.

    Args:
        prompt: shows a prompt on stderr if stdin is a terminal.
    """

    def __init__(self, prompt: bool) -> None:
        self._prompt = prompt and sys.stdin is not None and sys.stdin.isatty()
        self._first = True

    def read(self, more: bool) -> str | None:
        """The next line; None at the end.

        Raises:
            UsageError: a line that is too long, or not UTF-8.
        """
        from ..logs import tell
        from ..text_files import MAX_BYTES, without_mark

        if sys.stdin is None:
            return None
        if self._prompt:
            tell("... " if more else "> ", "")
        line = sys.stdin.buffer.readline(MAX_BYTES + 1)
        if not line:
            return None
        if len(line) > MAX_BYTES:
            raise click.UsageError(f"stdin: expected lines of at most {MAX_BYTES} bytes, got more")
        try:
            text = (without_mark(line) if self._first else line).decode()
        except UnicodeDecodeError as error:
            byte = f"{error.object[error.start]:#04x}"
            raise click.UsageError(
                f"stdin: expected UTF-8, got byte {byte} at offset {error.start} of a line"
            ) from None
        except ValueError as error:
            raise click.UsageError(f"stdin: {error}") from None
        self._first = False
        return text.removesuffix("\n").removesuffix("\r")
