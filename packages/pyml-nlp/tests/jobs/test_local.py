"""The back end of this machine: shards to forked workers, which die, stall, are stopped, and share their work."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from jobs.stub_jobs import Make, StubJob, at_once, dies, for_long, runner, stuck
from thread_cases import in_child, thread, until

from pyml_nlp.errors import ArgumentError
from pyml_nlp.jobs import crew, digests, member, shard_queue, worker_process
from pyml_nlp.jobs.claims import Claims
from pyml_nlp.jobs.errors import JobError, ShardBusy
from pyml_nlp.jobs.folder import JobFolder
from pyml_nlp.jobs.index import Index, from_environment
from pyml_nlp.jobs.journal import MAX_ATTEMPTS_WITHOUT_PROGRESS
from pyml_nlp.jobs.local import Local
from pyml_nlp.jobs.progress import Snapshot
from pyml_nlp.jobs.results import ShardResult
from pyml_nlp.jobs.stopping import Control, Leave, Level

pytestmark = pytest.mark.process


@pytest.fixture
def job(tmp_path: Path) -> StubJob:
    return StubJob(tmp_path / "job", 6)


@pytest.fixture
def works(monkeypatch: pytest.MonkeyPatch) -> Callable[[Make], None]:
    """Sets what workers do with a shard."""
    monkeypatch.setattr(member, "FIRST_DELAY", 0.01)
    monkeypatch.setattr(shard_queue, "LOOK_SECONDS", 0.05)

    def use(make: Make) -> None:
        monkeypatch.setattr(worker_process, "ShardRunner", runner(make))

    use(at_once)
    return use


def run(job: StubJob, **options: Any) -> list[ShardResult]:
    """Run what is pending."""
    return list(start(job, **options))


def start(job: StubJob, **options: Any) -> Iterator[ShardResult]:
    options = {"workers": 2, "threads": 1} | options
    return Local(**options).run(cast("JobFolder", job), job.pending())


def journal(job: StubJob) -> Path:
    return job.scratch_file(0, ".attempts")


def leftovers(job: StubJob) -> list[str]:
    folder = Path(job.folder, "workers")
    return [path.name for path in folder.iterdir()] if folder.exists() else []


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_every_shard_is_made_once(workers: int, job: StubJob, works: Callable[[Make], None]) -> None:
    results = run(job, workers=workers)
    assert sorted(result.shard for result in results) == list(range(6))
    assert sorted(job.lines("made")) == list("012345")
    assert leftovers(job) == []
    assert run(job) == []


def test_progress(job: StubJob, works: Callable[[Make], None]) -> None:
    seen: list[Snapshot] = []
    (Path(job.folder) / "shards/00003.done").write_text(
        ShardResult(3, 10, 0, 0, 1, 1, 0.0, digests.ZERO, 1, "shards/0.jsonl").as_json()
    )
    run(job, show=seen.append)
    last = seen[-1]
    assert (last.shards_done, last.shards, last.rows_done, last.rows) == (6, 6, 60, 60)
    assert (last.errors, last.tokens, last.workers) == (5, 200, 2)
    assert seen[0].shards_done >= 1


def test_a_worker_that_dies_is_started_again(job: StubJob, works: Callable[[Make], None]) -> None:
    told: list[str] = []
    works(dies(2))
    journal(job).write_text("")
    assert len(run(job, tell=told.append)) == 6
    assert [line.partition(": ")[2] for line in told] == ["SIGKILL; shard 0 goes on in a new process"] * 2
    assert job.lines("shards/00000.attempts") == ["died unknown"] * 2
    assert Counter(job.lines("made"))["0"] == 3


def test_a_crash_is_told_from_a_kill(job: StubJob, works: Callable[[Make], None]) -> None:
    works(dies(1, signal.SIGSEGV))
    journal(job).write_text("")
    run(job)
    assert job.lines("shards/00000.attempts") == ["died crash"]


def test_a_shard_whose_workers_always_die_is_set_aside(
    job: StubJob, works: Callable[[Make], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member, "LAST_DELAY", 0.02)
    works(dies(1000, signal.SIGABRT, which=4))
    with pytest.raises(JobError, match=r"shard 4 is not finished: its workers died again and again: SIGABRT$"):
        run(job)
    assert len(job.lines("deaths")) == MAX_ATTEMPTS_WITHOUT_PROGRESS + 1
    assert job.pending() == [4]
    assert leftovers(job) == []


def test_a_run_whose_workers_always_die_ends(
    job: StubJob, works: Callable[[Make], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(job: StubJob, shard: int, stop: Callable[[], bool]) -> None:
        job.note("deaths", shard)
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(member, "LAST_DELAY", 0.02)
    works(make)
    with pytest.raises(JobError, match=r"job: workers die again and again: ZeroDivisionError: by zero$"):
        run(job)
    assert set(job.lines("deaths")) < set("0123")
    assert leftovers(job) == []


def test_a_fault_of_the_program_is_told(job: StubJob, works: Callable[[Make], None]) -> None:
    def make(job: StubJob, shard: int, stop: Callable[[], bool]) -> None:
        if shard == 2 and len(job.lines("deaths")) < 1:
            job.note("deaths", 1)
            raise ZeroDivisionError("by zero")

    works(make)
    told: list[str] = []
    assert len(run(job, tell=told.append)) == 6
    assert [line[9:] for line in told] == ["died: ZeroDivisionError: by zero; shard 2 goes on in a new process"]


def test_an_output_that_cannot_be_written_stops_the_run(job: StubJob, works: Callable[[Make], None]) -> None:
    def make(job: StubJob, shard: int, stop: Callable[[], bool]) -> None:
        if shard == 1:
            raise JobError("shards/00001.part: cannot be written: No space left on device")
        for_long(job, shard, stop)

    works(make)
    begin = time.monotonic()
    with pytest.raises(JobError, match=r"^shards/00001.part: cannot be written: No space left on device$"):
        run(job)
    assert time.monotonic() - begin < 10
    assert leftovers(job) == []


def test_a_busy_shard_is_tried_later(job: StubJob, works: Callable[[Make], None]) -> None:
    def make(job: StubJob, shard: int, stop: Callable[[], bool]) -> None:
        if shard == 1 and len(job.lines("busy")) < 2:
            job.note("busy", 1)
            raise ShardBusy("shard 1 is busy")

    works(make)
    assert len(run(job)) == 6
    assert Counter(job.lines("made"))["1"] == 3


def test_a_worker_that_dies_when_its_shard_is_done_leaves_nothing(job: StubJob, works: Callable[[Make], None]) -> None:
    def make(job: StubJob, shard: int, stop: Callable[[], bool]) -> None:
        if shard == 0:
            result = ShardResult(0, 10, 0, 0, 1, 1, 0.0, digests.ZERO, 1, "shards/0.jsonl")
            job.store.write("shards/00000.done", result.as_json().encode())
            job.scratch_file(0, ".part").write_text("0\t{}\n")
            journal(job).write_text("begin 1\n")
            os.kill(os.getpid(), signal.SIGKILL)

    works(make)
    assert len(run(job)) == 6
    assert sorted(path.suffix for path in Path(job.folder, "shards").iterdir()) == [".done"] * 6


@pytest.mark.parametrize("make", [for_long, stuck], ids=["obeys", "hangs"])
def test_cancel_ends_soon(make: Make, job: StubJob, works: Callable[[Make], None]) -> None:
    control = Control()
    works(make)
    ends: list[float] = []

    def cancel() -> None:
        until(lambda: len(job.lines("made")) == 2)
        ends.append(time.monotonic())
        control.cancel()

    journal(job).write_text("row 1\n")
    with thread(cancel):
        assert run(job, control=control) == []
    assert time.monotonic() - ends[0] < 3
    assert len(job.pending()) == 6
    assert leftovers(job) == []
    if make is stuck:
        assert job.lines("shards/00000.attempts") == ["row 1", "end 0"]  # not the row's fault


def drains(job: StubJob, control: Control) -> Callable[[], None]:
    """Drains when two shards are under way."""

    def drain() -> None:
        until(lambda: len(job.lines("made")) == 2)
        control.drain()

    return drain


def test_drain_finishes_what_is_under_way(job: StubJob, works: Callable[[Make], None]) -> None:
    """The stub's shard is finished in a moment; no other one is begun."""
    control = Control(20)

    def make(job: StubJob, shard: int, stop: Callable[[], bool]) -> None:
        while not stop():
            time.sleep(0.01)
        job.note("drained", shard)

    works(make)
    with thread(drains(job, control)):
        assert run(job, control=control) == []
    assert sorted(job.lines("drained")) == ["0", "1"]
    assert sorted(job.lines("made")) == ["0", "1"]


def test_a_drain_takes_a_limited_time(job: StubJob, works: Callable[[Make], None]) -> None:
    control = Control(0.3)
    works(stuck)
    with thread(drains(job, control)):
        begin = time.monotonic()
        assert run(job, control=control) == []
    assert time.monotonic() - begin < 20


def test_closing_the_iterator_ends_the_workers(job: StubJob, works: Callable[[Make], None]) -> None:
    def make(job: StubJob, shard: int, stop: Callable[[], bool]) -> None:
        job.note("processes", os.getpid())
        if shard:
            for_long(job, shard, stop)

    works(make)
    results = start(job)
    assert next(results).shard == 0
    cast("Any", results).close()
    for process in set(job.lines("processes")):
        with pytest.raises(ProcessLookupError):
            os.kill(int(process), 0)
    assert leftovers(job) == []


def test_a_stalled_shard_is_named(job: StubJob, works: Callable[[Make], None]) -> None:
    told: list[str] = []

    def make(job: StubJob, shard: int, stop: Callable[[], bool]) -> None:
        if shard == 5:
            time.sleep(1)

    works(make)
    run(job, tell=told.append, stall_seconds=0.3)
    assert len(told) == 2  # after 0.3 and 0.6 seconds
    assert told[0].startswith("shard 5: no progress for 0 s in worker ")


def test_two_runs_share_the_work(job: StubJob, works: Callable[[Make], None]) -> None:
    def make(job: StubJob, shard: int, stop: Callable[[], bool]) -> None:
        time.sleep(0.1)

    works(make)
    with thread(lambda: in_child(lambda: run(job, workers=1) and None)):
        told: list[str] = []
        results = run(job, workers=1, tell=told.append)
    assert sorted(result.shard for result in results) == list(range(6))  # those of the other run, too
    assert sorted(job.lines("made")) == list("012345")


def test_the_shard_of_a_dead_run_is_taken_over(job: StubJob, works: Callable[[Make], None]) -> None:
    in_child(lambda: Claims(Path(job.folder) / "workers").take(2, 0) and None)
    assert len(run(job)) == 6


def test_workers_end_with_their_parent(job: StubJob, works: Callable[[Make], None]) -> None:
    def make(job: StubJob, shard: int, stop: Callable[[], bool]) -> None:
        job.note("processes", os.getpid())
        for_long(job, shard, stop)

    works(make)
    parent = os.fork()
    if parent == 0:
        try:
            run(job)
        finally:
            os._exit(1)
    until(lambda: len(job.lines("processes")) == 2)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)

    def gone() -> bool:
        return not any(map(alive, job.lines("processes")))

    until(gone)


def alive(process: str) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def test_invalid_options() -> None:
    for options, message in (
        ({"workers": 0}, "workers must be > 0, got 0"),
        ({"together": 0}, "together must be > 0, got 0"),
        ({"stall_seconds": 0}, "stall_seconds must be > 0.0, got 0"),
        ({"pin": "x"}, "pin must be auto, cores or none, got 'x'"),
    ):
        with pytest.raises(ArgumentError) as error:
            Local(**cast("Any", options))
        assert str(error.value) == message


# ---- index


def test_every_nth_shard(job: StubJob, works: Callable[[Make], None]) -> None:
    for index, expected in enumerate(([0, 4], [1, 5], [2], [3])):
        found = Index(index, 4, workers=1, threads=1).run(cast("JobFolder", job), job.pending())
        assert sorted(result.shard for result in found) == expected
    assert job.pending() == []


def test_an_index_that_is_too_large() -> None:
    with pytest.raises(ArgumentError, match=r"^index must be below the number of processes 4, got 4$"):
        Index(4, 4)


def test_schedulers_tell_the_index() -> None:
    slurm = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_MAX": "7"}
    assert from_environment(None, slurm | {"SLURM_ARRAY_TASK_COUNT": "8"}) == (3, 8)
    assert from_environment(9, slurm) == (3, 9)
    assert from_environment(5, {"JOB_COMPLETION_INDEX": "0"}) == (0, 5)
    failed_again = slurm | {"SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_TASK_MIN": "3"}  # --array=3,7
    for of, environment, message in (
        (None, failed_again, "of must be given: SLURM_ARRAY_TASK_ID does not tell how many processes there are"),
        (None, {"JOB_COMPLETION_INDEX": "0"}, "of must be given: JOB_COMPLETION_INDEX does not tell how many"),
        (3, {}, "index must be given: neither SLURM_ARRAY_TASK_ID nor JOB_COMPLETION_INDEX is set"),
        (3, {"JOB_COMPLETION_INDEX": "-1"}, "JOB_COMPLETION_INDEX: expected a whole number, got '-1'"),
    ):
        with pytest.raises(ArgumentError, match=f"^{message}"):
            from_environment(of, environment)


# ---- signals


def test_signals() -> None:
    control = Control()
    before = signal.getsignal(signal.SIGTERM)
    with control.signals():
        os.kill(os.getpid(), signal.SIGTERM)
    assert (control.level, control.signal) == (Level.DRAIN, signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before
    control.cancel()
    assert control.level is Level.CANCEL


def test_a_signal_ends_a_load() -> None:
    control = Control()
    control.loading = True
    with control.signals(), pytest.raises(Leave):
        os.kill(os.getpid(), signal.SIGINT)


def test_a_second_signal_ends_the_process(tmp_path: Path) -> None:
    process = os.fork()
    if process == 0:
        control = Control()
        control.abandon = lambda: (tmp_path / "abandoned").touch()
        with control.signals():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 130
    assert (tmp_path / "abandoned").exists()


def test_a_signal_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Control().signals():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_no_thread_is_started_in_the_parent(job: StubJob, works: Callable[[Make], None]) -> None:
    """A fork copies one thread alone."""
    before = threading.active_count()
    results = start(job)
    next(results)
    assert threading.active_count() == before
    assert len(list(results)) == 5
    assert crew.TICK_SECONDS < 1
