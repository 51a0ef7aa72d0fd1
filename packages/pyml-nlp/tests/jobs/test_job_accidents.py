"""Accidents of a job's folder, and rows that are hostile: the results are those of a job without accidents."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jobs.job_makers import finished, rows, write_rows

from pyml_nlp import jobs
from pyml_nlp.jobs.inputs import input_paths
from pyml_nlp.language_model import LanguageModel


@pytest.fixture
def job(job_model: Path, tmp_path: Path) -> jobs.Job:
    source = write_rows(tmp_path / "in.jsonl", rows(12))
    return jobs.plan(source, tmp_path / "job", model=job_model, seed=3, max_tokens=3, rows_per_shard=12)


def remove_results(job: jobs.Job) -> Path:
    """Remove every result of a finished job; returns the folder of its shards."""
    folder = Path(job.folder, "shards")
    for path in [*folder.iterdir(), Path(job.folder, "_SUCCESS")]:
        path.unlink()
    return folder


@pytest.mark.parametrize(
    ("part", "attempts"),
    [
        (b"", b""),
        (b'0\t{"id": 1, "te', b"begin 1 7@host\nro"),
        (b"what\n\0\0\xff", b"\0\xff what\nrow\nrow x\nrow 99999\nend"),
        (b'99\t{"id": 1}\n-1\t{"id": 1}\n', b"begin\nrow -1\ndied\n"),
        (b"0\tnot JSON\n", b"begin 1 7@host\nend\n" * 50),
    ],
)
def test_remains_of_an_attempt_that_are_damaged(
    part: bytes, attempts: bytes, job: jobs.Job, job_lm: LanguageModel
) -> None:
    expected = finished(job, job_lm)["digest"]
    folder = remove_results(job)
    (folder / "00000.part").write_bytes(part)
    (folder / "00000.attempts").write_bytes(attempts)
    assert finished(job, job_lm)["digest"] == expected
    assert sorted(path.name for path in folder.iterdir()) == ["00000.done", "00000.jsonl"]


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"shard": 0}'])
def test_a_damaged_mark_is_named(text: str, job: jobs.Job, job_lm: LanguageModel) -> None:
    expected = finished(job, job_lm)["digest"]
    mark = Path(job.folder, "shards", "00000.done")
    mark.write_text(text)
    with pytest.raises(
        jobs.JobError, match=r"00000\.done: expected the figures of a finished shard, got '.*if removed$"
    ):
        list(job.results())
    mark.unlink()
    Path(job.folder, "_SUCCESS").unlink()
    assert finished(job, job_lm)["digest"] == expected


@pytest.mark.parametrize(
    "change",
    [{"digest": "zz"}, {"tokens": -1}, {"seconds": float("nan")}, {"file": "../rows.jsonl"}, {"file": "/etc/passwd"}],
)
def test_a_changed_mark_is_named(change: dict[str, object], job: jobs.Job, job_lm: LanguageModel) -> None:
    finished(job, job_lm)
    mark = Path(job.folder, "shards", "00000.done")
    mark.write_text(json.dumps(json.loads(mark.read_text()) | change))
    Path(job.folder, "_SUCCESS").unlink()
    with pytest.raises(jobs.JobError, match=r"00000\.done: expected the figures of a finished shard"):
        job.finish()


def test_hostile_rows_fail_alone(job_model: Path, job_lm: LanguageModel, tmp_path: Path) -> None:
    lines = [
        b'\xef\xbb\xbf{"id": "first", "prompt": "the cat"}\r',
        b"",
        b'{"id": "deep", "prompt": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        b'{"id": "digits", "prompt": "a", "seed": 1' + b"0" * 5000 + b"}",
        b'{"id": "nan", "prompt": "a", "temperature": NaN}',
        b'{"id": "surrogate", "prompt": "\\ud800"}',
        b'{"id": 1.5, "prompt": "a"}',
        b"\xff\xfe",
        b'{"id": "long", "prompt": "' + b"cat " * 50_000 + b'"}',
        b'{"id": "last", "prompt": "the cat"}',  # without a newline
    ]
    source = tmp_path / "in.jsonl"
    source.write_bytes(b"\n".join(lines))
    job = jobs.plan(source, tmp_path / "job", model=job_model, seed=3, max_tokens=3)
    assert finished(job, job_lm)["rows"] == len(lines) - 1  # the empty line is no row
    found = list(job.rows())
    assert [row["id"] for row in found if "error" not in row] == ["first", "last"]
    assert all("\n" not in row["error"] and len(row["error"]) < 400 for row in found if "error" in row)
    assert json.loads(Path(job.folder, "_SUCCESS").read_text())["errors"] == len(lines) - 3


def test_inputs_that_are_missing_are_told_from_empty_folders(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(jobs.JobError, match=r"empty: the folder has no file that ends in \.jsonl, "):
        input_paths(tmp_path / "empty")
    with pytest.raises(jobs.JobError, match=r"other: there is no such file$"):
        input_paths(tmp_path / "other")
