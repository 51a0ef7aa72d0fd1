"""Parquet files by pyarrow, which is imported when the first one is used."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from itertools import islice
from typing import Any, BinaryIO

import numpy as np

from pyml_core.errors import one_line

from ..embedding.numbers import plain_numbers
from .errors import JobError

BATCH_ROWS = 1024
"""Rows that are in memory at a time."""

RESULT_COLUMNS = (
    ("id", "string"), ("text", "string"), ("finish_reason", "string"), ("logprob", "float64"),
    ("prompt_tokens", "int64"), ("tokens", "int64"), ("logprobs", "string"), ("error", "string"),
)  # fmt: skip
"""Columns of results, in the order of the keys of a line; ``logprobs`` is JSON."""

VECTORS = "embedding"
"""The column of vectors, the last one, in tables that have them."""

_LONGEST = 250


def library(name: str) -> Any:
    """The module ``pyarrow.parquet``; ``name`` is the file's that needs it.

    Raises:
        JobError: pyarrow is not installed.
    """
    try:
        return import_module("pyarrow.parquet")
    except ImportError:
        raise JobError(
            f"{one_line(name, _LONGEST)}: Parquet needs the package pyarrow (pip install 'pyml-nlp[parquet]')"
        ) from None


class ParquetInput:
    """A Parquet file with rows.

    Args:
        file: the open file.
        name: its name, for messages.

    Attributes:
        columns: names of its columns.
        n_rows: number of its rows.

    Raises:
        JobError: it is malformed, or pyarrow is not installed.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._name = one_line(name, _LONGEST)
        parquet = library(name)
        self._arrow = import_module("pyarrow")
        try:
            self._file = parquet.ParquetFile(file, pre_buffer=False)
        except (self._arrow.ArrowException, OSError) as error:
            raise self._error(error) from None
        self.columns: list[str] = list(self._file.schema_arrow.names)
        self.n_rows: int = self._file.metadata.num_rows

    def rows(self, start: int, stop: int, columns: Sequence[str] | None) -> Iterator[dict[str, Any]]:
        """Rows ``start`` to ``stop``, read by row group, with some columns (None: all) as Python values."""
        for batch in self.batches(start, stop, columns):
            yield from batch.to_pylist()

    def batches(self, start: int, stop: int, columns: Sequence[str] | None) -> Iterator[Any]:
        """Record batches of rows ``start`` to ``stop``, of at most :data:`BATCH_ROWS` rows."""
        wanted = None if columns is None else [name for name in self.columns if name in columns]
        first = 0
        for group in range(self._file.metadata.num_row_groups):
            count = self._file.metadata.row_group(group).num_rows
            if first < stop and first + count > start:
                yield from self._group(group, max(0, start - first), min(count, stop - first), wanted)
            first += count

    def _group(self, group: int, start: int, stop: int, columns: Sequence[str] | None) -> Iterator[Any]:
        done = 0
        try:
            for batch in self._file.iter_batches(BATCH_ROWS, row_groups=[group], columns=columns):
                low, high = max(0, start - done), min(batch.num_rows, stop - done)
                if low < high:
                    yield batch.slice(low, high - low)
                done += batch.num_rows
                if done >= stop:
                    return
        except (self._arrow.ArrowException, OSError) as error:
            raise self._error(error) from None

    def sizes(self, batch: Any) -> list[int]:
        """Bytes of the texts of each row of a batch; values of other types count with their mean."""
        compute = import_module("pyarrow.compute")
        sizes, rest = [0] * batch.num_rows, 0
        for column in batch.columns:
            if str(column.type) in ("string", "large_string"):
                for row, size in enumerate(compute.binary_length(column).to_pylist()):
                    sizes[row] += size or 0
            else:
                rest += column.nbytes
        mean = rest // max(batch.num_rows, 1)
        return [size + mean for size in sizes]

    def _error(self, error: Exception) -> JobError:
        return JobError(f"{self._name}: cannot be read as Parquet: {one_line(str(error), _LONGEST)}")


def write_table(file: BinaryIO, lines: Iterable[bytes], name: str, vectors: bool = False) -> None:
    """Write lines of results as a Parquet file; ``vectors``: with a column of them, as lists of float32.

    Raises:
        OSError: the file cannot be written. JobError: pyarrow is not installed.
    """
    parquet, arrow = library(name), import_module("pyarrow")
    schema = arrow.schema([arrow.field(column, getattr(arrow, kind)()) for column, kind in RESULT_COLUMNS])
    if vectors:
        schema = schema.append(arrow.field(VECTORS, arrow.list_(arrow.float32())))
    lines = iter(lines)
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        while rows := [json.loads(line) for line in islice(lines, BATCH_ROWS)]:
            for row in rows:
                if "logprobs" in row:
                    row["logprobs"] = json.dumps(row["logprobs"], ensure_ascii=False)
            writer.write_batch(arrow.RecordBatch.from_pylist(rows, schema))


def read_table(file: BinaryIO, name: str) -> Iterator[dict[str, Any]]:
    """The results that :func:`write_table` wrote, as they were."""
    table = ParquetInput(file, name)
    for row in table.rows(0, table.n_rows, None):
        result = {key: row[key] for key, _ in RESULT_COLUMNS if row.get(key) is not None}
        if "logprobs" in result:
            result["logprobs"] = json.loads(result["logprobs"])
        if row.get(VECTORS) is not None:
            result[VECTORS] = plain_numbers(np.asarray(row[VECTORS], np.float32))
        yield result
