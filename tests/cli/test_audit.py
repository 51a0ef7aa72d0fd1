"""``pyml audit`` from end to end on a tiny model."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

QUICK = ("--quick", "--prompt-lengths", "8,40", "--repetitions", "3", "--threads", "2")


@pytest.fixture(scope="module")
def audited(commands: Any, tiny_dirs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """Its output, and the folder that it wrote."""
    folder = tmp_path_factory.mktemp("audit") / "of" / "gemma"
    result = commands.run("pyml-audit", tiny_dirs["gemma3"], *QUICK, "--layers", "0,2-3", "--output", folder)
    return result, folder


def test_it_says_what_it_does_and_found(audited: tuple[Any, Path]) -> None:
    result, folder = audited
    assert result.code == 0, result.stderr
    lines = result.stderr.splitlines()
    assert lines[:2] == ["audit: measuring the machine", "audit: first cold prefill and decode"]
    assert re.fullmatch(r"audit: this will take about [\d.]+ (s|min): prompts of 8, 40 tokens", lines[2])
    assert lines[-1] == "audit: the machine's limits again"
    assert all(line.startswith("audit: ") for line in lines)
    assert "A prompt token is " in result.text
    assert result.text.splitlines()[-3:] == [str(folder / f"report.{kind}") for kind in ("md", "json", "html")]


def test_what_it_has_measured(audited: tuple[Any, Path]) -> None:
    value = json.loads((audited[1] / "report.json").read_text())
    m = value["measurements"]
    assert (value["format"], value["version"], m["threads"], m["layers"], m["reference"]) == (
        "pyml-audit", 2, 2, [0, 2, 3], 40,
    )  # fmt: skip
    assert [run["kind"] for run in m["cold"]] == ["prefill", "decode"]
    assert all(run["first_ms"] > 0 and run["load_ms"] > 0 and run["peak_bytes"] > 0 for run in m["cold"])
    assert [(point["kind"], point["length"]) for point in m["sweep"]] == [
        ("prefill", 8), ("decode", 8), ("prefill", 40), ("decode", 40),
    ]  # fmt: skip
    for point in m["sweep"]:
        assert list(point["parts_ms"]) == ["QKV", "QKnorm", "RoPE", "append", "QK^T", "softmax", "A*V", "out"]
        # The groups are all operations of a run, and take no longer than the run.
        assert sum(times[0] for times in point["groups_ms"].values()) <= point["wall_ms"][0]
        assert 0 <= point["waiting"] <= 1
    assert len(m["machine"]["limits"]) == 2
    options = [choice["option"] for choice in m["choices"]]
    assert options[:2] == ["--threads 1", "--kv-dtype f16"]
    assert all(len(choice[phase]) == 3 for choice in m["choices"] for phase in ("prefill", "decode"))
    assert all(min(choice["prefill"] + choice["decode"]) > 0 for choice in m["choices"])
    assert len(m["layer_heatmap"]["decode"]) == m["model"]["n_layers"]
    step, *inner = m["timeline"]
    assert step["depth"] == 0
    assert {span["depth"] for span in inner} == {1, 2, 3, 4}
    assert all(span["start_us"] + span["us"] <= step["us"] + 1 for span in inner if span["depth"] < 4)
    for kind in ("md", "html"):
        assert "Performance audit" in (audited[1] / f"report.{kind}").read_text()


def test_compare(audited: tuple[Any, Path], commands: Any) -> None:
    report = audited[1] / "report.json"
    result = commands.run("pyml", "audit", "--compare", report, report)
    assert (result.code, result.stderr) == (0, "")
    assert "0 of " in result.text
    assert "quantities changed beyond the noise" in result.text


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--prompt-lengths", "a"], 2, "invalid value 'a' for '--prompt-lengths': expected numbers such as 16,64 "
         "or 0,4-7"),
        (["--repetitions", "0"], 2, "--repetitions must be > 0, got 0"),
        (["--prompt-lengths", "500"], 1, "prompt length: expected 1 to 119 (the context holds 128 positions, 8 decode "
         "steps follow), got 500"),
        (["--layers", "90"], 1, "layer: expected 0 to 2, which the model has, got 90"),
        (["--output", "/dev/null/x"], 1, "/dev/null/x: the report cannot be written: Not a directory"),
        (["--compare", "a.json", "b.json"], 2, "the argument '--compare' cannot be used with '[MODEL]'"),
    ],
)  # fmt: skip
def test_errors(arguments: list[str], code: int, message: str, commands: Any, model: Path) -> None:
    result = commands.run("pyml-audit", model, *arguments)
    assert (result.code, result.stdout, result.error) == (code, b"", f"Error: {message}")


def test_reports_that_are_none(commands: Any, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    result = commands.run("pyml", "audit", "--compare", tmp_path / "a.json", tmp_path / "b.json")
    assert (result.code, result.error) == (1, f"Error: {tmp_path}/a.json: expected a report that pyml audit wrote")
