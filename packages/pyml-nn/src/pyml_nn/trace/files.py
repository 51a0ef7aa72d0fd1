"""Traces as files, as Chrome trace events for Perfetto and chrome://tracing, CSV or Parquet, and their summary."""

from __future__ import annotations

import codecs
import csv
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pyml_core.errors import PymlError, one_line

from ..files import checked_path, new_file
from .events import Event

if TYPE_CHECKING:
    from pyml_core.timing import ThreadSpan

ENDINGS = (".json", ".csv", ".parquet")
_PROCESS = 1  # the pid of every event


class Record(NamedTuple):
    """One operation of one run, with the figures of a summary."""

    name: str
    kind: str
    ms: float
    bytes: int
    flops: int


def table(events: Sequence[Event]) -> dict[str, npt.NDArray[Any]]:
    """Return a column for each field: name -> array, one row for each event; ``layer`` is -1 outside the layers."""
    columns: dict[str, Callable[[Event], Any]] = {
        "step": lambda event: event.step,
        "run": lambda event: event.run,
        "kind": lambda event: event.kind,
        "level": lambda event: event.level,
        "name": lambda event: event.name,
        "layer": lambda event: -1 if event.layer is None else event.layer,
        "phase": lambda event: event.phase,
        "tokens": lambda event: event.tokens,
        "start_ns": lambda event: event.start_ns,
        "ms": lambda event: event.ms,
        "busy_ms": lambda event: event.busy_ms,
        "bytes": lambda event: event.bytes,
        "flops": lambda event: event.flops,
        "gb_s": lambda event: event.gb_s,
        "gflop_s": lambda event: event.gflop_s,
        "shape": lambda event: event.shape,
    }
    texts, fractions = ("kind", "level", "name", "phase", "shape"), ("ms", "busy_ms", "gb_s", "gflop_s")
    found: dict[str, npt.NDArray[Any]] = {}
    for name, value in columns.items():
        dtype = np.str_ if name in texts else np.float64 if name in fractions else np.int64
        found[name] = np.array([value(event) for event in events], dtype)
    return found


def check_ending(path: str | os.PathLike[str]) -> str:
    """Return the suffix of a trace file's name; PymlError if it is unknown, or Parquet without pyarrow."""
    path = checked_path(path)
    ending = Path(path).suffix.lower()
    if ending not in ENDINGS:
        raise PymlError(f"{one_line(str(path))}: expected a trace file that ends in {', '.join(ENDINGS)}")
    if ending == ".parquet":
        _parquet(path)
    return ending


def save(events: Sequence[Event], path: str | os.PathLike[str]) -> None:
    """Write a trace in the format of the path's suffix; the file is put in place when it is complete.

    Raises:
        PymlError: another suffix, a file that cannot be written, or Parquet without pyarrow.
    """
    ending = check_ending(path)
    try:
        with new_file(path) as file:
            if ending == ".parquet":
                arrow, parquet = _parquet(path)
                parquet.write_table(arrow.table(table(events)), file)
            elif ending == ".csv":
                columns = table(events)
                writer = csv.writer(codecs.getwriter("utf-8")(file), lineterminator="\n")
                writer.writerow(columns)
                writer.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))
            else:
                file.write(b'{"displayTimeUnit":"ms","otherData":{"producer":"pyml"},"traceEvents":[\n')
                lines = (json.dumps(event, separators=(",", ":")).encode() for event in chrome_events(events))
                file.writelines(line if index == 0 else b",\n" + line for index, line in enumerate(lines))
                file.write(b"\n]}\n")
    except OSError as error:
        raise PymlError(f"{one_line(str(path))}: the trace cannot be written: {error.strerror or error}") from None


def _parquet(path: str | os.PathLike[str]) -> tuple[Any, Any]:
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        raise PymlError(
            f"{one_line(str(path))}: Parquet needs the package pyarrow, which is not installed; .csv does not"
        ) from None


# ---- Chrome's trace event format
#
# "Trace Event Format", Google, docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU. A track is a
# worker thread; on a track, complete events ("X") are nested: operations in layers in runs.


def chrome_events(events: Sequence[Event]) -> Iterator[dict[str, Any]]:
    """Yield the events of a timeline, in microseconds since the first operation."""
    timed = [event for event in events if event.thread_spans]
    n_threads = max((len(event.thread_spans) for event in timed), default=0)
    zero = min((span.start_ns for event in timed for span in event.thread_spans), default=0)
    zero = min(zero, min((event.start_ns for event in timed), default=0))
    yield {"name": "process_name", "ph": "M", "pid": _PROCESS, "args": {"name": "pyml"}}
    for thread in range(n_threads):
        title = "worker 0 (the caller)" if thread == 0 else f"worker {thread}"
        yield {"name": "thread_name", "ph": "M", "pid": _PROCESS, "tid": thread, "args": {"name": title}}
    for _, run in groupby(timed, lambda event: (event.step, event.run)):
        parts = list(run)
        for thread in range(n_threads):
            yield from _track(parts, thread, zero)
        yield from _counters(parts, zero)


def _track(run: Sequence[Event], thread: int, zero: int) -> Iterator[dict[str, Any]]:
    """One thread's part in a run."""

    def complete(name: str, category: str, begin: int, end: int, args: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "name": name, "cat": category, "ph": "X", "ts": (begin - zero) / 1e3, "dur": (end - begin) / 1e3,
            "pid": _PROCESS, "tid": thread, "args": args,
        }  # fmt: skip

    def span(events: Sequence[Event]) -> tuple[int, int]:
        spans = [event.thread_spans[thread] for event in events]
        return min(span.start_ns for span in spans), max(span.end_ns for span in spans)

    first = run[0]
    begin, end = span(run)
    where = {"step": first.step, "run": first.run, "tokens": first.tokens}
    yield complete(f"{first.kind} step {first.step}", "step", begin, end, where)
    for layer, group in groupby(run, lambda event: event.layer):
        parts = list(group)
        if layer is not None:
            yield complete(f"layer {layer}", "layer", *span(parts), {"layer": layer})
        for event in parts:
            own = event.thread_spans[thread]
            level = event.level
            if own.end_ns > own.start_ns or (thread == 0 and level == "operation"):
                short = event.name if layer is None else event.name.split(".", 2)[2]
                yield complete(event.phase or short, level, own.start_ns, own.end_ns, _arguments(event, own, thread))


def _arguments(event: Event, span: ThreadSpan, thread: int) -> dict[str, Any]:
    """The details of an event; on the caller's track, all of its fields."""
    args: dict[str, Any] = {"name": event.name, "busy_ms": round(span.busy_ms, 6)}
    if thread == 0:
        args |= {"layer": event.layer, "phase": event.phase, "kind": event.kind, "step": event.step, "ms": event.ms}
        args |= {"tokens": event.tokens, "bytes": event.bytes, "flops": event.flops, "shape": event.shape}
    return args


def _counters(run: Sequence[Event], zero: int) -> Iterator[dict[str, Any]]:
    """GB/s and GFLOP/s of each operation."""

    def counter(at: int, name: str, value: float) -> dict[str, Any]:
        return {"name": name, "ph": "C", "ts": (at - zero) / 1e3, "pid": _PROCESS, "args": {name: round(value, 3)}}

    operations = [event for event in run if event.level == "operation"]
    for event in operations:
        yield counter(event.start_ns, "GB/s", event.gb_s)
        yield counter(event.start_ns, "GFLOP/s", event.gflop_s)
    for event in operations[-1:]:
        for name in ("GB/s", "GFLOP/s"):
            yield counter(event.start_ns + round(event.ms * 1e6), name, 0.0)


# ---- summary


def records(events: Iterable[Event]) -> list[Record]:
    """The operations among the events."""
    return [
        Record(event.name, event.kind, event.ms, event.bytes, event.flops)
        for event in events
        if event.level == "operation"
    ]


def read_records(path: str | os.PathLike[str]) -> list[Record]:
    """The operations of a file that :func:`save` wrote.

    Raises:
        PymlError: it cannot be read, or is not a trace.
    """
    path = Path(path)
    ending = check_ending(path)
    try:
        rows: Iterable[Mapping[str, Any]]
        if ending == ".parquet":
            rows = _parquet(path)[1].read_table(path).to_pylist()
        elif ending == ".csv":
            with path.open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
        else:
            with path.open(encoding="utf-8") as file:
                rows = _operations(json.load(file))
        found = [_record(row) for row in rows if row.get("level") == "operation"]
    except OSError as error:
        raise PymlError(f"{path}: {error.strerror or error}") from None
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, csv.Error) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise PymlError(f"{path}: expected a trace that pyml wrote: {reason}") from None
    if not found:
        raise PymlError(f"{path}: expected a trace that pyml wrote, found no operation in it")
    return found


def _operations(content: Any) -> Iterator[dict[str, Any]]:
    """The operations of a timeline as rows, from the caller's track."""
    for event in content["traceEvents"]:
        if event.get("ph") == "X" and event.get("tid") == 0 and event.get("cat") == "operation":
            yield {"level": "operation", **event["args"]}


def _record(row: Mapping[str, Any]) -> Record:
    record = Record(str(row["name"]), str(row["kind"]), float(row["ms"]), int(row["bytes"]), int(row["flops"]))
    if not (math.isfinite(record.ms) and record.ms >= 0):
        raise ValueError(f"{record.name} takes {row['ms']} ms")
    return record


def summary(operations: Sequence[Record], top: int = 20) -> str:
    """Format the slowest operations as a table, with all layers together."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in operations:
        name = re.sub(r"^layers\.\d+\.", "layers.*.", record.name)
        groups.setdefault((record.kind, name), []).append(record)
    total = sum(record.ms for record in operations)
    ordered = sorted(groups.items(), key=lambda item: -sum(record.ms for record in item[1]))
    rows = [("step", "operation", "calls", "total ms", "share", "ms each", "GB/s", "GFLOP/s")]
    for (kind, name), group in ordered[:top]:
        ms = sum(record.ms for record in group)
        rates = (
            sum(rec.bytes for rec in group) / max(ms, 1e-6) / 1e6,
            sum(rec.flops for rec in group) / max(ms, 1e-6) / 1e6,
        )
        rows.append((
            kind, name, str(len(group)), f"{ms:.3f}", f"{100 * ms / max(total, 1e-9):.1f} %", f"{ms / len(group):.4f}",
            f"{rates[0]:.1f}", f"{rates[1]:.1f}",
        ))  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(text.ljust(width) if column < 2 else text.rjust(width) for column, (text, width) in enumerate(cells))
        for cells in (list(zip(row, widths, strict=True)) for row in rows)
    ]
    rest = "" if len(ordered) <= top else f", {len(ordered) - top} more not shown"
    return "\n".join([*lines, f"{total:.3f} ms in {len(operations)} operations{rest}"])
