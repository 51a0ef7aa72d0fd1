"""Rows of inputs, one at a time: JSONL by ranges of bytes, Parquet by row groups, paths and URLs.

A row that is wrong has a problem, which becomes its result; only an input that cannot be read is an error.
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from pyml_core.errors import one_line, quoted

from ..batch_items import is_unicode
from ..text_files import MAX_BYTES, decoded, parse_json
from .errors import JobError
from .grouping import ENTRY_BYTES, entries
from .manifest import GROUPED, ORDER, Input, Manifest, Piece
from .parquet import ParquetInput
from .remote import is_url, open_url, size_of
from .store import Store, named

JSONL = (".jsonl", ".ndjson")
COMPRESSED = tuple(ending + ".gz" for ending in JSONL)
PARQUET = (".parquet",)
ENDINGS = (*JSONL, *COMPRESSED, *PARQUET)
"""Endings of inputs."""

_SKIPPED = 1 << 20  # bytes that are read at a time of a line that is too long
_BUFFER = 1 << 18
_LONGEST = 250


@dataclass(slots=True)
class Row:
    """A row.

    Attributes:
        id: its own name, or that of its input and its number.
        number: number of its line (JSONL) or row (Parquet), from 1.
        values: its columns; empty if there is a problem.
        problem: why it has no values; None: it has.
    """

    id: str | int
    number: int
    values: dict[str, Any]
    problem: str | None = None


class Line(NamedTuple):
    """A line of a JSONL file that is not blank.

    Attributes:
        number: from 1.
        start, stop: where it is.
        data: its bytes; None: it is too long.
    """

    number: int
    start: int
    stop: int
    data: bytes | None


def is_parquet(path: str) -> bool:
    """Whether a file is read as Parquet."""
    return path.lower().endswith(PARQUET)


def is_compressed(path: str) -> bool:
    """Whether a file is read from its beginning only."""
    return path.lower().endswith(COMPRESSED)


def input_size(path: str) -> int:
    """The size of an input in bytes.

    Raises:
        JobError: it cannot be read.
    """
    with named(path, "read"):
        return size_of(path) if is_url(path) else Path(path).stat().st_size


@contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    """An input, decompressed. Errors of reading become JobError, which names it."""
    with named(path, "read"):
        file: Any = open_url(path) if is_url(path) else open(path, "rb", buffering=_BUFFER)  # noqa: SIM115, PTH123
        try:
            if is_compressed(path):
                with gzip.GzipFile(fileobj=file) as unpacked:
                    yield cast("BinaryIO", unpacked)
            else:
                yield file
        except (EOFError, zlib.error) as error:
            raise JobError(f"{one_line(path, _LONGEST)}: cannot be decompressed: {error}") from None
        finally:
            file.close()


def lines(file: BinaryIO, start: int, stop: int | None, number: int) -> Iterator[Line]:
    """The lines that are not blank from ``start``, the offset of line ``number``, to ``stop`` (None: the end)."""
    if start or stop is not None:  # a compressed file is read from its beginning
        file.seek(start)
    while stop is None or start < stop:
        data = file.readline(MAX_BYTES + 1)
        if not data:
            return
        end, whole = start + len(data), True
        while not data.endswith(b"\n") and len(data) > MAX_BYTES:
            more = file.readline(_SKIPPED)
            whole, end = False, end + len(more)
            if not more or more.endswith(b"\n"):
                break
        if not whole or data.strip():
            yield Line(number, start, end, data if whole else None)
        start, number = end, number + 1


def parsed(line: Line, source: Input, id_column: str) -> Row:
    """The row of a line."""
    row = Row(f"{source.name}:{line.number}", line.number, {})
    if line.data is None:
        row.problem = f"expected a line of at most {MAX_BYTES} bytes, got a longer one"
        return row
    data = line.data.rstrip(b"\r\n")
    try:
        values = parse_json(decoded(data) if line.start == 0 else data.decode())
    except UnicodeDecodeError as error:
        row.problem = f"expected UTF-8, got byte {data[error.start]:#04x} at offset {error.start}"
    except ValueError as error:
        row.problem = one_line(str(error), _LONGEST)
    else:
        _take(row, values, id_column)
    return row


def _take(row: Row, values: Any, id_column: str) -> None:
    """Give a row its values and its name."""
    if not isinstance(values, dict):
        row.problem = f"expected a JSON object, got {quoted(values)}"
        return
    name = values.get(id_column)
    if isinstance(name, str | int) and not isinstance(name, bool) and is_unicode(name):
        row.id = name
    elif name is not None:
        row.problem = f"{id_column} must be a text or a whole number, got {quoted(name)}"
        return
    row.values = values


def table_rows(
    table: ParquetInput, source: Input, columns: Sequence[str] | None, id_column: str
) -> Iterator[tuple[int, Row]]:
    """All rows of a Parquet file, with their sizes in bytes."""
    number = 0
    for batch in table.batches(0, table.n_rows, columns):
        for size, values in zip(table.sizes(batch), batch.to_pylist(), strict=True):
            number += 1
            row = Row(f"{source.name}:{number}", number, {})
            _take(row, values, id_column)
            yield size, row


class Reader:
    """Reads the rows of shards.

    Args:
        manifest: of the job.
        store: its folder.
        columns: the columns that are needed; None: all.
    """

    def __init__(self, manifest: Manifest, store: Store, columns: Sequence[str] | None) -> None:
        self._inputs = manifest.inputs
        self._store = store
        self._shards = manifest.shards
        self._columns = columns
        self._id_column = manifest.task.id_column

    def rows(self, shard: int) -> Iterator[Row]:
        """The rows of a shard, always in the same order.

        Raises:
            JobError: an input cannot be read, or has changed since the job was planned.
        """
        for piece in self._shards[shard].pieces:
            yield from self._grouped(piece) if piece.input == GROUPED else self._piece(piece)

    def _piece(self, piece: Piece) -> Iterator[Row]:
        source = self._checked(piece.input)
        with opened(source.path) as file:
            if is_parquet(source.path):
                yield from self._parquet(file, source, piece.start, piece.stop)
            else:
                stop = None if is_compressed(source.path) else piece.stop
                for line in lines(file, piece.start, stop, piece.row):
                    yield parsed(line, source, self._id_column)

    def _parquet(
        self, file: BinaryIO, source: Input, start: int, stop: int, wanted: Container[int] | None = None
    ) -> Iterator[Row]:
        table = ParquetInput(file, source.path)
        if table.n_rows != source.rows:
            raise changed(source)
        for number, values in enumerate(table.rows(start, stop, self._columns), start + 1):
            if wanted is None or number in wanted:
                row = Row(f"{source.name}:{number}", number, {})
                _take(row, values, self._id_column)
                yield row

    def _grouped(self, piece: Piece) -> Iterator[Row]:
        """Rows of the order, by inputs, so that each is opened once."""
        size = (piece.stop - piece.start) * ENTRY_BYTES
        try:
            with self._store.open(ORDER) as file:
                file.seek(piece.start * ENTRY_BYTES)
                data = file.read(size)
        except FileNotFoundError:
            raise JobError(f"{self._store.name(ORDER)}: there is no such file, and the job needs it") from None
        found = entries(data) if len(data) == size else []
        if not found or any(entry.input >= len(self._inputs) for entry in found):
            raise JobError(f"{self._store.name(ORDER)}: damaged: expected the rows of the job")
        for number in dict.fromkeys(entry.input for entry in found):
            source = self._checked(number)
            own = [entry for entry in found if entry.input == number]
            with opened(source.path) as file:
                if is_parquet(source.path):
                    wanted = {entry.row for entry in own}
                    yield from self._parquet(file, source, min(wanted) - 1, max(wanted), wanted)
                    continue
                for entry in own:
                    for line in lines(file, entry.start, entry.start + 1, entry.row):
                        yield parsed(line, source, self._id_column)

    def _checked(self, number: int) -> Input:
        source = self._inputs[number]
        if input_size(source.path) != source.size:
            raise changed(source)
        return source


def changed(source: Input) -> JobError:
    """The error for an input that is not that of the plan."""
    return JobError(f"{one_line(source.path, _LONGEST)}: has changed since the job was planned")


def input_names(paths: Sequence[str]) -> list[str]:
    """How the ids of rows without one begin: the files' names, or their paths if two have one name."""
    short = [os.path.basename(path.rstrip("/")) for path in paths]  # noqa: PTH119 (URLs, too)
    return short if len(set(short)) == len(short) else list(paths)
