"""Inputs of a plan: which files they are, samples of their rows, and where each row is."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from glob import glob, has_magic
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from pyml_core.errors import one_line, quoted
from pyml_nn.files import checked_path

from ..errors import ArgumentError
from .errors import JobError
from .manifest import Input
from .parquet import ParquetInput
from .remote import find, is_url
from .rows import ENDINGS, Line, Row, is_compressed, is_parquet, lines, opened, parsed
from .store import named

_BLOCK = 1 << 20  # bytes that are looked at at a time
_SPACE = np.isin(np.arange(256), np.frombuffer(b" \t\r\n\v\f", np.uint8))
_PLACES = (0.0, 0.25, 0.5, 0.75)  # where a file is sampled
_AT_PLACE = 8  # rows of a sample
_FILES = 16  # most files that are sampled
_LONGEST_SAMPLE = 1 << 20
_LONGEST = 250


class Found(NamedTuple):
    """Successive rows of an input.

    Attributes:
        starts, stops: where they are; see :class:`.Piece`.
        numbers: of their lines or rows, from 1.
        sizes: in bytes.
    """

    starts: npt.NDArray[np.int64]
    stops: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]


def input_paths(inputs: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[str]:
    """The files that inputs name, each once: files, patterns, folders and URLs of them.

    Raises:
        ArgumentError: there is no input. JobError: one names no file, or a file that is not JSONL or Parquet.
    """
    given = [inputs] if isinstance(inputs, str | os.PathLike) else list(inputs)
    if not given:
        raise ArgumentError("must name a file", "inputs")
    paths: dict[str, None] = {}
    for one in given:
        name = checked_path(one)
        with named(name, "read"):
            found = find(name) if is_url(name) else _local(name)
        if not found:
            empty = not is_url(name) and Path(name).expanduser().is_dir()
            wrong = f"the folder has no file that ends in {', '.join(ENDINGS)}" if empty else "there is no such file"
            raise JobError(f"{one_line(name, _LONGEST)}: {wrong}")
        paths |= dict.fromkeys(found)
    for path in paths:
        if not path.lower().endswith(ENDINGS):
            raise JobError(f"{one_line(path, _LONGEST)}: expected a file that ends in {', '.join(ENDINGS)}")
    return list(paths)


def _local(name: str) -> list[str]:
    path = Path(name).expanduser()
    if path.is_dir():
        found = [str(one) for one in path.iterdir() if one.name.lower().endswith(ENDINGS)]
    elif not path.exists() and has_magic(name):
        found = [one for one in glob(str(path), recursive=True) if Path(one).is_file()]  # noqa: PTH207 (absolute patterns)
    else:
        found = [str(path)] if path.exists() else []
    return sorted(os.path.abspath(one) for one in found)  # noqa: PTH100 (links stay)


def sample(paths: Sequence[str], names: Sequence[str], id_column: str) -> Iterator[tuple[int, Row]]:
    """Some rows of some files, with their sizes in bytes."""
    step = max(1, len(paths) // _FILES)
    for path, name in list(zip(paths, names, strict=True))[::step]:
        with opened(path) as file:
            if is_parquet(path):
                yield from _sample_of_table(ParquetInput(file, path), name, id_column)
                continue
            source = Input(path, name, 0, 0, "")
            size = 0 if is_compressed(path) else file.seek(0, os.SEEK_END)
            for place in _PLACES if size else (0.0,):
                for line in islice(_lines_at(file, int(size * place)), _AT_PLACE):
                    if line.data is not None and len(line.data) < _LONGEST_SAMPLE:
                        yield len(line.data), parsed(line, source, id_column)


def _lines_at(file: BinaryIO, start: int) -> Iterator[Line]:
    """The lines that begin after an offset."""
    if start:
        file.seek(start)
        if not file.readline(_LONGEST_SAMPLE).endswith(b"\n"):
            return iter(())
        start = file.tell()
    return lines(file, start, None, 1)


def _sample_of_table(table: ParquetInput, name: str, id_column: str) -> Iterator[tuple[int, Row]]:
    for place in _PLACES:
        start = int(table.n_rows * place)
        for batch in table.batches(start, min(start + _AT_PLACE, table.n_rows), None):
            for size, values in zip(table.sizes(batch), batch.to_pylist(), strict=True):
                yield size, Row(f"{name}:0", 0, values)


class Scan:
    """Finds the rows of a file, and hashes the file.

    Args:
        path: of the file.
        columns: those that count for sizes, in Parquet; None: all.

    Attributes:
        rows: number of rows that were found.
        digest: of the bytes that were read; empty for Parquet.

    Raises:
        JobError: while iterating: the file cannot be read.
    """

    def __init__(self, path: str, columns: Sequence[str] | None) -> None:
        self._path = path
        self._columns = columns
        self.rows = 0
        self.digest = ""

    def __iter__(self) -> Iterator[Found]:
        with opened(self._path) as file:
            for found in self._table(file) if is_parquet(self._path) else self._lines(file):
                self.rows += len(found.starts)
                yield found

    def _table(self, file: BinaryIO) -> Iterator[Found]:
        table, start = ParquetInput(file, self._path), 0
        if self._columns:
            missing = next((name for name in self._columns if name not in table.columns), None)
            if missing is not None:
                raise JobError(
                    f"{one_line(self._path, _LONGEST)}: there is no column {quoted(missing)}: "
                    f"expected one of {', '.join(table.columns)}"
                )
        for batch in table.batches(0, table.n_rows, self._columns):
            starts = np.arange(start, start + batch.num_rows)
            yield Found(starts, starts + 1, starts + 1, np.array(table.sizes(batch), np.int64))
            start += batch.num_rows

    def _lines(self, file: BinaryIO) -> Iterator[Found]:
        """Rows of a JSONL file: lines that are not blank. Whole blocks are looked at, not single lines."""
        digest, position = sha256(), 0
        line_start, number, carried = 0, 1, False  # of the line that the block before has begun
        while block := file.read(_BLOCK):
            digest.update(block)
            data = np.frombuffer(block, np.uint8)
            ends = np.flatnonzero(data == 10)
            content = np.cumsum(~_SPACE[data], dtype=np.int32)
            if len(ends):
                before = content[ends]
                filled = np.diff(before, prepend=0) > 0
                filled[0] |= carried
                stops = ends + position + 1
                starts = np.concatenate([[line_start], stops[:-1]])
                numbers = np.arange(number, number + len(ends))
                yield Found(starts[filled], stops[filled], numbers[filled], (stops - starts)[filled])
                line_start, number, carried = int(stops[-1]), number + len(ends), bool(content[-1] > before[-1])
            else:
                carried = carried or bool(content[-1])
            position += len(block)
        if carried:
            last = [np.array([value]) for value in (line_start, position, number, position - line_start)]
            yield Found(*last)
        self.digest = digest.hexdigest()
