"""``pyml-infer --trace-out`` and ``pyml trace summary`` from end to end."""

from __future__ import annotations

import csv
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

P = ("--prompt", "the cat", "--temperature", "0", "--max-tokens", "4", "-q")


def test_a_timeline(commands: Any, model: Path, tmp_path: Path) -> None:
    """The text is unchanged; the summary counts every operation of every step."""
    plain = commands.infer(model, *P)
    traced = commands.infer(model, *P, "--trace-out", tmp_path / "trace.json", "--threads", 2)
    assert (traced.code, traced.stdout, traced.stderr) == (0, plain.stdout, "")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert {event["tid"] for event in events if event["ph"] == "X"} == {0, 1}
    result = commands.run("pyml", "trace", "summary", tmp_path / "trace.json", "--top", 3)
    assert (result.code, result.stderr) == (0, "")
    lines = result.text.splitlines()
    assert lines[0].split() == ["step", "operation", "calls", "total", "ms", "share", "ms", "each", "GB/s", "GFLOP/s"]
    assert len(lines) == 5
    operations = [event for event in events if event.get("cat") == "operation" and event["tid"] == 0]
    assert f" ms in {len(operations)} operations, " in lines[-1]
    steps = {event["args"]["step"]: event["args"]["kind"] for event in operations}
    assert steps == {0: "prefill", 1: "decode", 2: "decode", 3: "decode"}


def test_a_table_of_a_batch(commands: Any, model: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("the cat\nthe hat in the cat\n")
    batch = ("--batch-file", tmp_path / "prompts.txt", "--max-tokens", "3", "--temperature", "0", "-q")
    result = commands.infer(model, *batch, "--trace-out", tmp_path / "trace.csv")
    assert result.code == 0
    with (tmp_path / "trace.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    kinds = [row["kind"] for row in rows if row["name"] == "forward"]
    assert kinds == ["prefill", "decode", "decode"]  # both prompts in one run
    assert commands.run("pyml", "trace", "summary", tmp_path / "trace.csv").code == 0


def test_the_trace_of_an_early_end(commands: Any, model: Path, tmp_path: Path) -> None:
    """A reader that goes away ends the text, not the trace."""
    result = commands.infer(model, *P, "--stream", "--trace-out", tmp_path / "trace.json", shell="| head -c 1")
    assert result.code == 0
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]


@pytest.mark.parametrize(
    ("path", "code", "message"),
    [
        ("trace.txt", 2, "--trace-out must end in .json, .csv, .parquet, got '{}'"),
        ("trace", 2, "--trace-out must end in .json, .csv, .parquet, got '{}'"),
        ("missing/trace.json", 1, "{}: the trace cannot be written: No such file or directory"),
        ("folder.csv", 1, "{}: the trace cannot be written: Is a directory"),
    ],
)
def test_bad_places(path: str, code: int, message: str, commands: Any, tmp_path: Path) -> None:
    place = tmp_path / path
    (tmp_path / "folder.csv").mkdir()
    result = commands.infer("no-such-model.gguf", *P, "--trace-out", place)
    assert (result.code, result.stdout, result.error) == (code, b"", "Error: " + message.format(place))


@pytest.mark.skipif(find_spec("pyarrow") is not None, reason="pyarrow is installed")
def test_parquet_without_pyarrow(commands: Any, tmp_path: Path) -> None:
    result = commands.infer("no-such-model.gguf", *P, "--trace-out", tmp_path / "trace.parquet")
    assert result.code == 1
    assert result.error.endswith("Parquet needs the package pyarrow, which is not installed; .csv does not")


def test_bad_files(commands: Any, tmp_path: Path) -> None:
    (tmp_path / "text.json").write_text("no trace")
    for name, code, message in (
        ("text.json", 1, "text.json: expected a trace that pyml wrote: Expecting value: line 1 column 1 (char 0)"),
        ("missing.json", 1, "missing.json: No such file or directory"),
        ("trace.txt", 1, "trace.txt: expected a trace file that ends in .json, .csv, .parquet"),
    ):
        result = commands.run("pyml", "trace", "summary", tmp_path / name)
        assert (result.code, result.stdout, result.error) == (code, b"", f"Error: {tmp_path}/{message}")
    result = commands.run("pyml", "trace", "summary", tmp_path / "text.json", "--top", 0)
    assert (result.code, result.error) == (2, "Error: --top must be > 0, got 0")
