"""Reading of users' texts from files and stdin: bounded, UTF-8, with or without a byte order mark."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, BinaryIO

from pyml_core.errors import PymlError, one_line

MAX_BYTES = 32 << 20
"""Maximum size of a text in bytes: four for each of the characters that a tokenizer accepts."""

MAX_DIGITS = 640
"""Maximum number of digits of an integer in JSON: Python reads this many with any setting of its own limit."""

MAX_NAME = 250
"""Maximum number of characters of a file's name in a message."""

_MARK = b"\xef\xbb\xbf"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_PIECE = 1 << 20


class NoJSON(ValueError):
    """A text that is not JSON."""


def without_mark(data: bytes) -> bytes:
    """Return the beginning of a text without a byte order mark, which some editors write.

    Raises:
        ValueError: the text is UTF-16.
    """
    if data.startswith(_UTF_16):
        raise ValueError("expected UTF-8, got UTF-16")
    return data.removeprefix(_MARK)


def decoded(data: bytes) -> str:
    """Decode UTF-8 bytes, without a byte order mark.

    Raises:
        ValueError: the bytes are not valid UTF-8; the message says why.
    """
    text = without_mark(data)
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        at = error.start + len(data) - len(text)
        raise ValueError(f"expected UTF-8, got byte {data[at]:#04x} at offset {at}") from None


def read_bounded(file: BinaryIO, limit: int = MAX_BYTES) -> bytes:
    """Read the rest of a file, which may be a pipe, but not more than ``limit`` bytes.

    Raises:
        ValueError: there are more bytes.
    """
    data = bytearray()
    while True:
        piece = file.read(_PIECE)
        data += piece
        if len(data) > limit:
            raise ValueError(f"expected at most {limit} bytes, got more")
        if len(piece) < _PIECE:  # the end: reading again would make a terminal wait for a second end of file
            return bytes(data)


def read_text(path: str, limit: int = MAX_BYTES) -> str:
    """Return the text of a file.

    Raises:
        PymlError: the file cannot be read, is too large, or is not UTF-8; the message names it.
    """
    try:
        with Path(path).open("rb") as file:
            return decoded(read_bounded(file, limit))
    except (OSError, ValueError) as error:
        raise PymlError(f"{one_line(path, MAX_NAME)}: {getattr(error, 'strerror', None) or error}") from None


def parse_json(text: str) -> Any:
    """Parse a JSON text.

    Raises:
        NoJSON: the text is not JSON; the message says why.
        ValueError: it has too many levels, or an integer with too many digits.
    """

    def integer(digits: str) -> int:
        if len(digits) > MAX_DIGITS:
            raise ValueError(f"expected integers of at most {MAX_DIGITS} digits, got one of {len(digits)}")
        return int(digits)

    try:
        return json.loads(text, parse_int=integer)
    except json.JSONDecodeError as error:
        raise NoJSON(f"expected JSON: {error}") from None
    except RecursionError:
        raise ValueError("expected JSON of fewer levels, got too many to read") from None
