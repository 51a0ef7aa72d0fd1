"""A shard whose process stops, dies or cannot write: nothing is lost, nothing is taken for a result."""

from __future__ import annotations

import errno
import faulthandler
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jobs.job_makers import finished, rows, write_rows

from pyml_nlp import jobs
from pyml_nlp.jobs import journal, shard
from pyml_nlp.jobs.journal import Deaths, Journal
from pyml_nlp.jobs.part import Part
from pyml_nlp.jobs.tasks import texts
from pyml_nlp.language_model import LanguageModel

COUNT = 24


@pytest.fixture
def job(job_model: Path, tmp_path: Path) -> jobs.Job:
    """A job of one shard."""
    source = write_rows(tmp_path / "in.jsonl", rows(COUNT))
    return jobs.plan(source, tmp_path / "job", model=job_model, max_tokens=5, rows_per_shard=COUNT)


@pytest.fixture
def expected(job: jobs.Job, job_lm: LanguageModel, tmp_path: Path) -> bytes:
    """The bytes of the shard, made without any interruption."""
    whole = jobs.plan(tmp_path / "in.jsonl", tmp_path / "whole", model=job.model, max_tokens=5, rows_per_shard=COUNT)
    finished(whole, job_lm)
    return (tmp_path / "whole/shards/00000.jsonl").read_bytes()


def result_of(job: jobs.Job) -> bytes:
    return (Path(job.folder) / "shards/00000.jsonl").read_bytes()


def in_child(work: Callable[[], Any]) -> int:
    """Run a function in a child; returns how it ended, as of ``os.waitpid``."""
    child = os.fork()
    if child == 0:
        faulthandler.disable()
        try:
            work()
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1]


def dies_at(runner: jobs.ShardRunner, name: str, number: int = signal.SIGKILL) -> None:
    """Let the process die when this row gets its prompt."""
    work: Any = runner._work
    make = work._request

    def request(row: Any) -> Any:
        if row.id == name:
            os.kill(os.getpid(), number)
        return make(row)

    work._request = request


def test_a_stopped_shard_goes_on(job: jobs.Job, job_lm: LanguageModel, expected: bytes) -> None:
    asked = iter([*[False] * 10, *[True] * 100])
    progress: list[jobs.Progress] = []
    with pytest.raises(jobs.Stopped, match=r"^shard 0: stopped after \d+ of 24 rows$"):
        jobs.ShardRunner(job, job_lm, 4).run(0, lambda: next(asked), progress.append)
    kept = progress[-1].rows
    assert 4 <= kept < COUNT
    assert progress[0].rows == 0
    assert not (Path(job.folder) / "shards/00000.jsonl").exists()
    assert job.done(0) is None
    assert job.finish() is None
    progress.clear()
    result = jobs.ShardRunner(job, job_lm, 4).run(0, on_progress=progress.append)
    assert (progress[0].rows, progress[-1].rows) == (kept, COUNT)
    assert result_of(job) == expected
    assert result.bytes == len(expected)


def test_cancel_ends_rows_under_way(
    job: jobs.Job, job_lm: LanguageModel, expected: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard, "REPORT_SECONDS", 0.0)
    runner = jobs.ShardRunner(job, job_lm, 8)

    def cancel(progress: jobs.Progress) -> None:
        if progress.rows:
            runner.cancel()

    with pytest.raises(jobs.Stopped):
        runner.run(0, on_progress=cancel)
    with pytest.raises(jobs.Stopped):
        runner.run(0)
    finished(job, job_lm)
    assert result_of(job) == expected


def test_a_killed_process_loses_only_what_was_under_way(
    job: jobs.Job, job_lm: LanguageModel, expected: bytes, tmp_path: Path
) -> None:
    def work() -> None:
        runner = jobs.ShardRunner(job, job_lm, 2)
        dies_at(runner, "row-12")
        runner.run(0)

    assert os.WTERMSIG(in_child(work)) == signal.SIGKILL
    kept = (tmp_path / "job/shards/00000.part").read_bytes().splitlines()[1:]
    assert 5 < len(kept) < 13
    with (tmp_path / "job/shards/00000.part").open("ab") as file:
        file.write(b'20\t{"id": "row-20", "te')  # cut short
    finished(job, job_lm, 2)
    assert result_of(job) == expected


@pytest.mark.parametrize(("number", "deaths"), [(signal.SIGSEGV, 2), (signal.SIGKILL, 5)])
def test_a_row_that_kills_its_process_is_quarantined(
    number: int, deaths: int, job: jobs.Job, job_lm: LanguageModel, expected: bytes
) -> None:
    def work() -> None:
        runner = jobs.ShardRunner(job, job_lm, 6)
        dies_at(runner, "row-9", number)
        runner.run(0)

    count = 0
    while (end := in_child(work)) != 0:
        count += 1
        journal.record_death(job, 0, crash=os.WTERMSIG(end) == signal.SIGSEGV)
        assert count < 10
    assert count == deaths
    result = job.done(0)
    assert result is not None
    assert (result.errors, result.quarantined) == (1, 1)
    found, wanted = result_of(job).splitlines(), expected.splitlines()
    error = {"id": "row-9", "error": f"quarantined: its process died {deaths} times"}
    assert json.loads(found[9]) == error
    del found[9], wanted[9]
    assert found == wanted


def test_twenty_kills_blame_nobody(job: jobs.Job, job_lm: LanguageModel, expected: bytes) -> None:
    """A process that is killed whatever row it works on."""
    ends = []
    for number in range(20):
        ends.append(in_child(lambda number=number: _killed_after(job, job_lm, 1 + number % 3)))  # type: ignore[misc]
    assert set(ends) >= {signal.SIGKILL}
    result = next(iter(job.run("here", lm=job_lm)), None) or job.done(0)
    assert result is not None
    assert (result.errors, result_of(job)) == (0, expected)


def _killed_after(job: jobs.Job, lm: LanguageModel, count: int) -> None:
    before: list[int] = []

    def kill(progress: jobs.Progress) -> None:
        before.append(progress.rows)
        if progress.rows >= before[0] + count:
            os.kill(os.getpid(), signal.SIGKILL)

    shard.REPORT_SECONDS = 0.0  # in this child
    jobs.ShardRunner(job, lm, 3).run(0, on_progress=kill)


def test_deaths_in_a_journal(tmp_path: Path) -> None:
    path = tmp_path / "00000.attempts"
    first = Journal(path, ())
    for index in (4, 5, 6):
        first.row(index)
    first.close()
    second = Journal(path, {4})
    assert second.past == {5: Deaths(1, 0, 0), 6: Deaths(1, 0, 0)}
    assert not any(past.suspect for past in second.past.values())
    second.row(5)
    second.end(2.5)
    second.close()
    third = Journal(path, {4})  # the second one ended in order
    assert (third.past[5], third.seconds) == (Deaths(1, 0, 0), 2.5)
    third.row(6)
    third.close()
    with path.open("a") as file:
        file.write("died crash\nrow 7\nro")
    fourth = Journal(path, {4, 7})
    assert fourth.past == {5: Deaths(1, 0, 0), 6: Deaths(2, 1, 1)}
    assert (fourth.past[6].suspect, fourth.past[6].quarantined) == (True, False)
    for alone in (2, 3):
        fourth.row(6)
        fourth.close()
        fourth = Journal(path, {4})
        assert (fourth.past[6].alone, fourth.past[6].quarantined) == (alone, alone == 3)
    fourth.close()


def test_one_process_a_shard(job: jobs.Job, job_lm: LanguageModel, tmp_path: Path) -> None:
    held = Part(tmp_path / "job/shards/00000.part", job.digest)
    with pytest.raises(jobs.ShardBusy, match=r"00000\.part: another process is working on this shard"):
        jobs.ShardRunner(job, job_lm).run(0)
    held.close()
    assert jobs.ShardRunner(job, job_lm).run(0).rows == COUNT


def test_a_part_of_another_job_is_dropped(job: jobs.Job, job_lm: LanguageModel, expected: bytes) -> None:
    path = Path(job.folder) / "shards/00000.part"
    path.parent.mkdir()
    path.write_bytes(b'pyml-part 123\n0\t{"id": "row-0", "text": "wrong"}\n')
    finished(job, job_lm)
    assert result_of(job) == expected


def test_a_full_disk_loses_nothing(
    job: jobs.Job, job_lm: LanguageModel, expected: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, room = os.pwrite, [1500]

    def pwrite(file: int, data: memoryview, offset: int) -> int:
        count = min(len(data), room[0])
        room[0] -= count
        if not count:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, data[:count], offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(jobs.JobError, match=r"^.*/job/shards/00000\.part: cannot be written: No space left on device$"):
        jobs.ShardRunner(job, job_lm).run(0)
    monkeypatch.undo()
    lines = (Path(job.folder) / "shards/00000.part").read_bytes().split(b"\n")
    assert lines[-1] == b""
    assert len(lines) > 5
    finished(job, job_lm)
    assert result_of(job) == expected


def test_a_folder_that_is_a_file(job: jobs.Job, job_lm: LanguageModel) -> None:
    (Path(job.folder) / "shards").write_text("")
    with pytest.raises(jobs.JobError, match=r"shards.*: cannot be (read|written): "):
        jobs.ShardRunner(job, job_lm).run(0)


def test_a_result_without_done_is_made_again(job: jobs.Job, job_lm: LanguageModel, expected: bytes) -> None:
    finished(job, job_lm)
    (Path(job.folder) / "shards/00000.done").unlink()
    (Path(job.folder) / "shards/00000.jsonl").write_bytes(expected[:100])
    finished(job, job_lm)
    assert result_of(job) == expected


def test_a_fault_is_no_result(job: jobs.Job, job_lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(*_: Any) -> Any:
        raise RuntimeError("a fault")

    monkeypatch.setattr(texts, "row_seed", faulty)
    with pytest.raises(RuntimeError, match="a fault"):
        jobs.ShardRunner(job, job_lm).run(0)
    assert job.done(0) is None


def test_inputs_that_change(job: jobs.Job, job_lm: LanguageModel, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    data = path.read_bytes()
    job.check_inputs()
    path.write_bytes(data.replace(b"river", b"raver", 1))
    with pytest.raises(jobs.JobError, match=r"in\.jsonl: has changed since the job was planned"):
        job.check_inputs()
    path.write_bytes(data + b'{"prompt": "more"}\n')
    with pytest.raises(jobs.JobError, match=r"in\.jsonl: has changed since the job was planned"):
        jobs.ShardRunner(job, job_lm).run(0)
    path.write_bytes(data.replace(b"\n", b" ", 1))
    with pytest.raises(jobs.JobError, match="expected 24 rows, got 23: an input has changed"):
        jobs.ShardRunner(job, job_lm).run(0)
    path.unlink()
    with pytest.raises(jobs.JobError, match=r"in\.jsonl: cannot be read: No such file or directory"):
        jobs.ShardRunner(job, job_lm).run(0)
