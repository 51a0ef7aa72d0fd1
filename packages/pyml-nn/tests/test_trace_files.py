"""Traces as files: timelines by the rules of Chrome's trace event format, tables, and summaries read back from them."""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nn_models import GEMMA3, GPT2, make

from pyml_core.errors import PymlError
from pyml_core.timing import ThreadSpan
from pyml_nn.trace import Event, files
from pyml_nn.trace.events import _phase_span
from pyml_nn.trace.lines import ATTENTION_PHASES

THREADS = 3


@pytest.fixture(scope="module")
def trace() -> Any:
    """A prompt in three runs and two steps of decoding, with tensors, which take time between operations."""
    model = make(GEMMA3, threads=THREADS, max_tokens=4)
    cache = model.new_cache()
    with model.trace(tensors="layers.*") as trace:
        model.forward([(cache, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], None)])
        for token in (11, 12):
            model.forward([(cache, [token], None)])
    return trace


@pytest.fixture(scope="module")
def timeline(trace: Any, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    path = tmp_path_factory.mktemp("trace") / "trace.json"
    trace.save(path)
    content = json.loads(path.read_text())
    assert content["displayTimeUnit"] == "ms"
    events: list[dict[str, Any]] = content["traceEvents"]
    return events


def complete(timeline: list[dict[str, Any]], thread: int) -> list[dict[str, Any]]:
    found = [event for event in timeline if event["ph"] == "X" and event["tid"] == thread]
    return sorted(found, key=lambda event: (event["ts"], -event["dur"]))


def test_every_event_is_well_formed(timeline: list[dict[str, Any]]) -> None:
    keys = {
        "X": {"name", "cat", "ph", "ts", "dur", "pid", "tid", "args"},
        "C": {"name", "ph", "ts", "pid", "args"},
        "M": {"name", "ph", "pid", "args"},
    }
    for event in timeline:
        assert set(event) - {"tid"} == keys[event["ph"]] - {"tid"}
        assert isinstance(event["name"], str)
        assert isinstance(event["args"], dict)
        for key in {"ts", "dur"} & set(event):
            assert isinstance(event[key], float)
            assert event[key] >= 0
        for key in {"pid", "tid"} & set(event):
            assert isinstance(event[key], int)
        if event["ph"] == "C":
            ((name, value),) = event["args"].items()
            assert (name, event["name"]) in {("GB/s", "GB/s"), ("GFLOP/s", "GFLOP/s")}
            assert value >= 0
    assert min(event["ts"] for event in timeline if "ts" in event) == 0
    assert [event["args"]["name"] for event in timeline if event["ph"] == "M"] == [
        "pyml", "worker 0 (the caller)", "worker 1", "worker 2",
    ]  # fmt: skip


def test_phases_of_a_thread_follow_each_other() -> None:
    rng = np.random.default_rng(5)
    for _ in range(2000):  # a tenth of these once overlapped by a nanosecond
        start, length = int(rng.integers(1 << 40)), int(rng.integers(1, 1000))
        edges = [0, *sorted(rng.integers(0, length + 1, 2).tolist()), length]
        ms = tuple((end - begin) * 1e-6 for begin, end in itertools.pairwise(edges))
        span = ThreadSpan(start, start + length, sum(ms), ms)
        found = [_phase_span(span, index) for index in range(3)]
        told = [start, *(edge for one in found for edge in one[:2]), start + length]
        assert told == sorted(told)
        assert [one.busy_ms for one in found] == pytest.approx(ms, abs=1e-9)


@pytest.mark.parametrize("thread", range(THREADS))
def test_events_nest_and_do_not_overlap(timeline: list[dict[str, Any]], thread: int) -> None:
    """On one track events are nested or follow each other: operations in layers in steps."""
    inside: dict[Any, set[tuple[str, ...]]] = {
        "step": {()},
        "layer": {("step",)},
        "operation": {("step",), ("step", "layer")},
        "phase": {("step", "layer", "operation")},
    }
    stack: list[tuple[int, str]] = []  # end in ns, category
    for event in complete(timeline, thread):
        begin, end = round(event["ts"] * 1000), round((event["ts"] + event["dur"]) * 1000)
        if begin == end:  # an operation without work (a head without positions)
            continue
        while stack and stack[-1][0] <= begin:
            stack.pop()
        assert not stack or end <= stack[-1][0], event
        assert tuple(category for _, category in stack) in inside[event["cat"]], event
        stack.append((end, event["cat"]))


def test_names(trace: Any, timeline: list[dict[str, Any]]) -> None:
    """Attention events are named by their phase, and have their dotted name as well."""
    track = complete(timeline, 0)
    titles = Counter(event["name"] for event in track if event["cat"] == "step")
    assert titles == {"prefill step 0": 3, "decode step 1": 1, "decode step 2": 1}
    assert Counter(event["name"] for event in track if event["cat"] == "layer") == {f"layer {n}": 5 for n in range(3)}
    phases = [event for event in track if event["args"].get("phase")]
    assert {event["name"] for event in phases} >= {"QKV", "out"}  # others may have no time on a track
    assert {event["name"] for event in phases} <= {*ATTENTION_PHASES, "append"}
    for event in phases:
        assert re.fullmatch(r"layers\.\d\.attention\.(qkv|out|prepare\.\w+|attend\.[\w*^]+)", event["args"]["name"])
    operations = [event["args"] for event in track if event["cat"] == "operation"]
    expected = [event for event in trace.events if event.level == "operation"]
    assert [(args["name"], args["step"]) for args in operations] == [(event.name, event.step) for event in expected]
    assert [args["ms"] for args in operations] == [event.ms for event in expected]


def test_the_parts_of_a_fused_operation() -> None:
    """Inside it, named by their phases."""
    name, where = "layers.2.attention.attend", (2, "", "decode", 0, 1, 5000, 0.01)
    spans = [
        ThreadSpan(5000, 12000, 0.006),
        ThreadSpan(5000, 9000, 0.004),
        ThreadSpan(9000, 9500, 0.0005),
        ThreadSpan(9500, 11000, 0.0015),
    ]
    events = [Event(name, *where, thread_spans=tuple(spans[:1]))]
    for phase, span in zip(("QK^T", "softmax", "A*V"), spans[1:], strict=True):
        events.append(Event(f"{name}.{phase}", 2, phase, *where[2:], thread_spans=(span,)))
    track = [event for event in files.chrome_events(events) if event["ph"] == "X"]
    assert [(event["cat"], event["name"], event["ts"], event["dur"], event["args"].get("name")) for event in track] == [
        ("step", "decode step 0", 0.0, 7.0, None),
        ("layer", "layer 2", 0.0, 7.0, None),
        ("operation", "attention.attend", 0.0, 7.0, name),
        ("phase", "QK^T", 0.0, 4.0, f"{name}.QK^T"),
        ("phase", "softmax", 4.0, 0.5, f"{name}.softmax"),
        ("phase", "A*V", 4.5, 1.5, f"{name}.A*V"),
    ]


def test_a_thread_works_no_longer_than_its_event(timeline: list[dict[str, Any]]) -> None:
    for event in timeline:
        if event["ph"] == "X" and event["cat"] == "operation":
            assert event["args"]["busy_ms"] <= event["dur"] / 1000 + 1e-6


# ---- tables


def test_table(trace: Any) -> None:
    table = trace.table()
    assert {len(column) for column in table.values()} == {len(trace.events)}
    operations = table["level"] == "operation"
    model_ms = table["ms"][operations].sum()
    assert 0 < model_ms <= table["ms"][table["level"] == "forward"].sum()
    assert set(table["layer"][operations]) == {-1, 0, 1, 2}
    head = operations & (table["name"] == "head") & (table["ms"] > 0)
    np.testing.assert_allclose(table["gflop_s"][head], table["flops"][head] / table["ms"][head] / 1e6, rtol=1e-6)


def test_csv(trace: Any, tmp_path: Path) -> None:
    trace.save(tmp_path / "trace.csv")
    with (tmp_path / "trace.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    table = trace.table()
    assert len(rows) == len(trace.events)
    assert list(rows[0]) == list(table)
    assert [float(row["ms"]) for row in rows] == table["ms"].tolist()
    assert [row["shape"] for row in rows] == table["shape"].tolist()


def test_parquet(trace: Any, tmp_path: Path) -> None:
    if find_spec("pyarrow") is None:
        with pytest.raises(
            PymlError, match=r"trace\.parquet: Parquet needs the package pyarrow, which is not installed"
        ):
            trace.save(tmp_path / "trace.parquet")
        return
    trace.save(tmp_path / "trace.parquet")
    assert files.read_records(tmp_path / "trace.parquet") == files.records(trace.events)


def test_parquet_without_pyarrow(trace: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(files, "import_module", missing)
    with pytest.raises(PymlError, match=r"trace\.parquet: Parquet needs the package pyarrow, which is not installed"):
        trace.save(tmp_path / "trace.parquet")
    assert not (tmp_path / "trace.parquet").exists()


@pytest.mark.parametrize("ending", ["json", "csv", "JSON"])
def test_files_are_read_back(ending: str, trace: Any, tmp_path: Path) -> None:
    trace.save(tmp_path / f"trace.{ending}")
    assert files.read_records(tmp_path / f"trace.{ending}") == files.records(trace.events)


# ---- summary


def test_summary() -> None:
    record = files.Record
    operations = [
        record("layers.0.attention.qkv", "prefill", 3.0, 6_000_000, 9_000_000),
        record("layers.1.attention.qkv", "prefill", 1.0, 2_000_000, 3_000_000),
        record("head", "prefill", 2.0, 0, 0),
        record("head", "decode", 4.0, 80_000_000, 4_000_000),
        record("embedding", "prefill", 0.0, 0, 0),
    ]
    assert files.summary(operations, 3).splitlines() == [
        "step     operation               calls  total ms   share  ms each  GB/s  GFLOP/s",
        "prefill  layers.*.attention.qkv      2     4.000  40.0 %   2.0000   2.0      3.0",
        "decode   head                        1     4.000  40.0 %   4.0000  20.0      1.0",
        "prefill  head                        1     2.000  20.0 %   2.0000   0.0      0.0",
        "10.000 ms in 5 operations, 1 more not shown",
    ]


def test_summary_of_a_trace(trace: Any) -> None:
    lines = trace.summary().splitlines()
    folded = {(event.kind, re.sub(r"\.\d\.", ".*.", event.name)) for event in trace.events}
    assert all(tuple(line.split()[:2]) in folded for line in lines[1:-1])
    assert len(lines) == 22


def test_an_empty_trace(tmp_path: Path) -> None:
    with make(GPT2).trace() as empty:
        pass
    empty.save(tmp_path / "empty.json")
    assert [event["ph"] for event in json.loads((tmp_path / "empty.json").read_text())["traceEvents"]] == ["M"]
    assert empty.summary().splitlines()[-1] == "0.000 ms in 0 operations"
    assert len(empty.table()["ms"]) == 0
    with pytest.raises(PymlError, match="found no operation in it"):
        files.read_records(tmp_path / "empty.json")


# ---- errors


def test_endings_and_places(trace: Any, tmp_path: Path) -> None:
    with pytest.raises(PymlError, match=r"trace\.txt: expected a trace file that ends in \.json, \.csv, \.parquet$"):
        trace.save(tmp_path / "trace.txt")
    with pytest.raises(PymlError, match=r"trace\.csv: the trace cannot be written: No such file or directory$"):
        trace.save(tmp_path / "missing" / "trace.csv")


GOOD = {"name": "head", "kind": "decode", "ms": 1.0, "bytes": 1, "flops": 1}


@pytest.mark.parametrize(
    "content",
    [
        "", "{", "[]", "3", '"text"', "{}", '{"traceEvents": 3}', '{"traceEvents": [3]}', "[" * 100_000, "\udcff",
        *(
            json.dumps({"traceEvents": [{"ph": "X", "tid": 0, "cat": "operation", "args": args}]})
            for args in (
                3, None, {}, {**GOOD, "ms": "x"}, {**GOOD, "ms": float("nan")}, {**GOOD, "ms": -1},
                {**GOOD, "bytes": []}, {**GOOD, "flops": float("inf")},
            )
        ),
    ],
)  # fmt: skip
def test_bad_json(content: str, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    path.write_text(content, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(PymlError, match=r"trace\.json: expected a trace that pyml wrote"):
        files.read_records(path)


@pytest.mark.parametrize(
    "content", ["", "a,b\n1,2\n", "level,name,kind,ms,bytes,flops\noperation,head,decode,x,1,1\n", "\0"]
)
def test_bad_csv(content: str, tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(content)
    with pytest.raises(PymlError, match=r"trace\.csv: expected a trace that pyml wrote"):
        files.read_records(path)
