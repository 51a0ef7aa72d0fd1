"""``pyml batch plan``: a manifest, one line on stdout, and errors of one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pyml_nlp import jobs


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"id": number, "text": "word " * number}) + "\n" for number in range(1, 9)))
    return path


def test_plan(commands: Any, rows: Path, tiny_dirs: dict[str, Path], tmp_path: Path) -> None:
    arguments = (
        "batch", "plan", rows, "--output", tmp_path / "job", "--model", tiny_dirs["llama"], "--prompt", "Count: {text}",
        "--max-tokens", 3, "--seed", 4, "--rows-per-shard", 3, "--top-k", 5, "--stop", "x", "--parquet",
    )  # fmt: skip
    result = commands.run("pyml", *arguments)
    assert (result.code, result.stderr) == (0, "")
    job = jobs.open(tmp_path / "job")
    assert result.text.startswith(f"{tmp_path}/job: 8 rows in 3 shards, about ")
    assert job.manifest.options == {"max_tokens": 3, "top_k": 5, "stop": ["x"]}
    assert (job.manifest.seed, job.manifest.task.prompt, job.manifest.output) == (4, "Count: {text}", "parquet")
    again = commands.run("pyml", *arguments)
    assert (again.code, again.text) == (0, result.text)
    other = commands.run("pyml", *arguments[:-1])
    assert (other.code, other.stdout) == (1, b"")
    assert (
        other.error == f"Error: {tmp_path}/job: planned already, with another value of output: 'parquet', not 'jsonl'"
    )


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (["--prompt", "no column"], 2, "--prompt must name a column in braces, such as {text}, got 'no column'"),
        (["--task", "embed"], 2, "--task embed needs an embedding model, got a model that writes texts"),
        (["--task", "sing"], 2, "invalid value 'sing' for '--task': expected one of generate, chat, score, embed"),
        (["--rows-per-shard", "0"], 2, "--rows-per-shard must be > 0, got 0"),
        (["--temperature", "-1"], 2, "--temperature must be a finite number >= 0.0, got -1"),
        (["--prompt-column", "txt"], 1, "no row of the sample has a column 'txt': they have 'id', 'text'"),
    ],
)
def test_refused(
    arguments: list[str], code: int, error: str, commands: Any, rows: Path, tiny_dirs: dict[str, Path], tmp_path: Path
) -> None:
    result = commands.run(
        "pyml", "batch", "plan", rows, "--output", tmp_path / "job", "--model", tiny_dirs["llama"], *arguments
    )
    assert (result.code, result.stdout, result.error) == (code, b"", f"Error: {error}")
    assert not (tmp_path / "job").exists()


def test_help_and_unknown_commands(commands: Any) -> None:
    assert "plan" in commands.run("pyml", "batch").text
    result = commands.run("pyml", "batch", "plam")
    assert result.code == 2
    assert "plan" in result.error
