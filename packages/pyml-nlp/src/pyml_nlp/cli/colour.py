"""Colour of lines on a terminal."""

from __future__ import annotations

import os

TYPE_CHECKING = False  # start-up: not typing's
if TYPE_CHECKING:
    from typing import TextIO

DIM, RED = "2", "31"


def has_colour(stream: TextIO | None) -> bool:
    """Whether a stream is a terminal with colours, and ``NO_COLOR`` is not set."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") in ("", "dumb"):
        return False
    return stream is not None and stream.isatty()


def coloured(text: str, colour: str, stream: TextIO | None) -> str:
    """The text in this colour, where the stream has it."""
    return f"\x1b[{colour}m{text}\x1b[0m" if has_colour(stream) else text
