"""Batch files: a prompt a line, or with ``.jsonl`` a JSON object a line, with options of its own.

A line that is wrong is that line's error: the others are generated all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from pyml_core.errors import PymlError, one_line

from ..batch_items import Item, json_item
from ..text_files import MAX_NAME, without_mark

MAX_FILE = 256 << 20
"""Bytes of a batch file. All of its prompts are kept in memory."""


def read(path: str) -> list[Item]:
    """The lines that are not blank.

    Raises:
        PymlError: the file cannot be read, has no line, or is too large.
    """
    make = json_item if path.lower().endswith(".jsonl") else _text_item
    name = one_line(path, MAX_NAME)
    items = []
    try:
        for number, line in enumerate(_lines(path), 1):
            items += _items(line, number, make)
    except (OSError, ValueError) as error:
        raise PymlError(f"Failed to read batch file: {name}: {getattr(error, 'strerror', None) or error}") from None
    if not items:
        raise PymlError(f"Batch file is empty: {name}")
    return items


def _lines(path: str) -> Iterator[bytes]:
    """The lines of a file; ValueError if it is too large, before more of it is in memory."""
    room = MAX_FILE
    with Path(path).open("rb") as file:
        while line := file.readline(room + 1):
            first, room = room == MAX_FILE, room - len(line)
            if room < 0:
                raise ValueError(f"expected at most {MAX_FILE} bytes, got more")
            line = without_mark(line) if first else line
            yield line.removesuffix(b"\n").removesuffix(b"\r")


def _items(line: bytes, number: int, make: Callable[[str, int], Item]) -> list[Item]:
    """The line's item, if it is not blank."""
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        problem = f"expected UTF-8, got byte {line[error.start]:#04x} at offset {error.start}"
        return [Item("", line=number, problem=problem)]
    return [make(text, number)] if text.strip() else []


def _text_item(text: str, number: int) -> Item:
    return Item(text, line=number)
