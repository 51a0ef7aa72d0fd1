"""What the files of a job tell: status, and everything counted again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jobs.job_makers import finished, rows, write_rows

from pyml_nlp import jobs
from pyml_nlp.jobs import Job
from pyml_nlp.jobs.claims import Claims
from pyml_nlp.jobs.quarantined import quarantined_rows
from pyml_nlp.language_model import LanguageModel


@pytest.fixture
def done(tmp_path: Path, job_model: Path, job_lm: LanguageModel) -> Job:
    """A finished job of three shards."""
    write_rows(tmp_path / "in.jsonl", rows(12))
    job = jobs.plan(tmp_path / "in.jsonl", tmp_path / "job", model=job_model, rows_per_shard=4, max_tokens=3)
    list(job.run("here", lm=job_lm))
    return job


def result(job: Job, shard: int) -> Path:
    return Path(job.folder) / f"shards/{shard:05d}.jsonl"


def test_a_finished_job(done: Job) -> None:
    found = done.status()
    assert (found.complete, found.shards_done, found.rows_done, found.running) == (True, 3, 12, ())
    assert list(found.lines())[:3] == [
        f"{done.folder}: complete",
        "Shards: 3 of 3",
        "Rows: 12 of 12 (100 %), 0 with errors",
    ]
    report = done.verify()
    assert report.ok
    assert (report.rows, report.duplicates, report.problems) == (12, 0, ())
    assert report.digest == json.loads((Path(done.folder) / "_SUCCESS").read_text())["digest"]


def test_a_running_job(done: Job) -> None:
    (Path(done.folder) / "shards/00001.done").unlink()
    (Path(done.folder) / "_SUCCESS").unlink()
    claims = Claims(Path(done.folder) / "workers")
    claims.take(1, 0)
    claims.touch(1, 2, 30, 4.0, 1.0)
    found = done.status()
    assert not found.complete
    assert (found.rows_per_second, found.tokens_per_second, found.seconds_left) == (0.5, 7.5, 4.0)
    lines = list(found.lines())
    assert lines[0] == f"{done.folder}: running, 1 worker"
    assert "Speed: 0.5 rows/s, 8 tokens/s, 4 s left" in lines
    assert lines[-1].startswith("Shard 1: 2 rows in 4 s, without progress for 1 s, worker 0 of process ")
    claims.release_all()
    assert next(iter(done.status().lines())) == f"{done.folder}: not running"
    report = done.verify()
    assert (report.ok, report.n_problems, report.shards_done) == (False, 0, 2)


def changed(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))


@pytest.mark.parametrize("before", ['"text": "', '"prompt_tokens": '])
def test_a_changed_byte_is_found(before: str, done: Job) -> None:
    changed(result(done, 1), before, before + "1")
    report = done.verify()
    assert not report.ok
    assert any(f"{result(done, 1)}: expected " in problem and "as its digest" in problem for problem in report.problems)


def test_a_lost_line_and_a_broken_one_are_found(done: Job) -> None:
    lines = result(done, 0).read_text().splitlines(keepends=True)
    result(done, 0).write_text("".join(lines[:-1]))
    result(done, 2).write_text("".join(lines[:1]) + "[]\n" + "not JSON\n{}\n")
    report = done.verify()
    assert f"{result(done, 0)}: expected 4 rows, by the manifest, found 3" in report.problems
    assert f"{result(done, 2)} line 2: expected a JSON object with an id, got b'[]'" in report.problems
    assert report.duplicates == 1
    assert f"{done.folder}: 1 rows have the id of another row" in report.problems
    assert any("_SUCCESS: expected 11 for 'rows', found 12" in problem for problem in report.problems)


def test_damaged_totals_are_found(done: Job) -> None:
    (Path(done.folder) / "_SUCCESS").write_text("{")
    assert [problem.partition("_SUCCESS: ")[2] for problem in done.verify().problems] == [
        "expected the totals of the job, got b'{'"
    ]


def test_rows_in_quarantine_are_named(tmp_path: Path, job_model: Path, job_lm: LanguageModel) -> None:
    write_rows(tmp_path / "in.jsonl", rows(6))
    job = jobs.plan(tmp_path / "in.jsonl", tmp_path / "job", model=job_model, rows_per_shard=6, max_tokens=3)
    (tmp_path / "job/shards").mkdir(exist_ok=True)
    (tmp_path / "job/shards/00000.attempts").write_text("past 2 2 2 1\n")
    assert finished(job, job_lm)["quarantined"] == 1
    count, names = quarantined_rows(job, range(1))
    assert (count, len(names)) == (1, 1)
    report = job.verify()
    assert report.ok
    assert (report.errors, report.quarantined) == (1, 1)
    assert f"Quarantined: 1: {names[0]}" in list(report.lines())
    assert "Quarantined: 1 rows, which end their process" in list(job.status().lines())
