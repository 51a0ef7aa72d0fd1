"""Texts that users give in files and on stdin: read with a bound, UTF-8, with or without a byte order mark."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, BinaryIO

from pyml_core.errors import PymlError, one_line

MAX_BYTES = 32 << 20
"""Bytes of a text: four for each character that a tokenizer takes at most."""

MAX_DIGITS = 640
"""Digits of an integer in JSON: as many as Python reads whatever its own limit is set to."""

MAX_NAME = 250
"""Characters of a file's name in a message."""

_MARK = b"\xef\xbb\xbf"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_PIECE = 1 << 20


class NoJSON(ValueError):
    """A text that is no JSON."""


def without_mark(data: bytes) -> bytes:
    """The beginning of a text without the byte order mark that some editors put there.

    Raises:
        ValueError: it is UTF-16.
    """
    if data.startswith(_UTF_16):
        raise ValueError("expected UTF-8, got UTF-16")
    return data.removeprefix(_MARK)


def decoded(data: bytes) -> str:
    """The text of UTF-8 bytes, without a byte order mark.

    Raises:
        ValueError: it is something else, in words.
    """
    text = without_mark(data)
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        at = error.start + len(data) - len(text)
        raise ValueError(f"expected UTF-8, got byte {data[at]:#04x} at offset {at}") from None


def read_bounded(file: BinaryIO, limit: int = MAX_BYTES) -> bytes:
    """All that is left of a file, which may be a pipe; no more than ``limit`` bytes are taken into memory.

    Raises:
        ValueError: there is more.
    """
    data = bytearray()
    while True:
        piece = file.read(_PIECE)
        data += piece
        if len(data) > limit:
            raise ValueError(f"expected at most {limit} bytes, got more")
        if len(piece) < _PIECE:  # the end; to read on would make a terminal ask for it again
            return bytes(data)


def read_text(path: str, limit: int = MAX_BYTES) -> str:
    """The text of a file.

    Raises:
        PymlError: names the file, which cannot be read, is too large, or is not UTF-8.
    """
    try:
        with Path(path).open("rb") as file:
            return decoded(read_bounded(file, limit))
    except (OSError, ValueError) as error:
        raise PymlError(f"{one_line(path, MAX_NAME)}: {getattr(error, 'strerror', None) or error}") from None


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        NoJSON: it is none, in words.
        ValueError: it has more levels or digits than can be read.
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
