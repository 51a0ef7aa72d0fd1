"""A shard whose process dies, or whose disk is full, at each of its operations on files."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jobs.job_makers import finished, rows, write_rows

from pyml_nlp import jobs
from pyml_nlp.language_model import LanguageModel

COUNT = 5
OPERATIONS = ("open", "pwrite", "write", "fsync", "ftruncate", "replace", "rename", "unlink")
MAKES = ("pwrite", "write", "fsync", "ftruncate", "replace", "rename")
ENDED = 7


class Operations:
    """Calls of the functions of ``os`` that change files; ``act`` gets the number of each call, and what it does."""

    def __init__(self, names: tuple[str, ...], act: Callable[[int, Callable[[], Any]], Any]) -> None:
        self.count = 0
        self._act = act
        self._real = {name: getattr(os, name) for name in names}

    def __enter__(self) -> Operations:
        for name, real in self._real.items():
            setattr(os, name, self._counted(real))
        return self

    def __exit__(self, *_: object) -> None:
        for name, real in self._real.items():
            setattr(os, name, real)

    def _counted(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.count += 1
            return self._act(self.count, lambda: real(*arguments, **options))

        return call


@pytest.fixture
def planned(job_model: Path, job_lm: LanguageModel, tmp_path: Path) -> tuple[Path, bytes]:
    """The folder of a job of one shard, and the shard's results."""
    source = write_rows(tmp_path / "in.jsonl", rows(COUNT))
    job = jobs.plan(source, tmp_path / "plan", model=job_model, max_tokens=3, rows_per_shard=COUNT)
    shutil.copytree(job.folder, tmp_path / "whole")
    finished(jobs.open(tmp_path / "whole"), job_lm)
    return Path(job.folder), (tmp_path / "whole/shards/00000.jsonl").read_bytes()


def check(folder: Path, lm: LanguageModel, expected: bytes) -> None:
    """The shard is done with its result or not at all; the next run ends it, with the same bytes."""
    shards = folder / "shards"
    if (shards / "00000.jsonl").exists():
        assert (shards / "00000.jsonl").read_bytes() == expected
    else:
        assert not (shards / "00000.done").exists()
    assert finished(jobs.open(folder), lm)["quarantined"] == 0
    assert (shards / "00000.jsonl").read_bytes() == expected
    assert {path.name for path in shards.iterdir()} == {"00000.done", "00000.jsonl"}


@pytest.mark.parametrize("before", [True, False])
def test_a_kill_at_each_operation(before: bool, planned: tuple[Path, bytes], job_lm: LanguageModel) -> None:
    plan, expected = planned
    points = 0
    while True:
        points += 1
        folder = plan.with_name(f"killed-{points}")
        shutil.copytree(plan, folder)
        child = os.fork()
        if child == 0:
            code = 1

            def act(number: int, work: Callable[[], Any], last: int = points) -> Any:
                found = None if number == last and before else work()
                if number == last:
                    os.kill(os.getpid(), signal.SIGKILL)
                return found

            try:
                with Operations(OPERATIONS, act):
                    finished(jobs.open(folder), job_lm, 2)
                code = ENDED
            finally:
                os._exit(code)
        status = os.waitpid(child, 0)[1]
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == ENDED
            break
        check(folder, job_lm, expected)
        shutil.rmtree(folder)
    assert points > 3 * COUNT


def test_a_full_disk_at_each_operation(planned: tuple[Path, bytes], job_lm: LanguageModel) -> None:
    plan, expected = planned
    for point in range(1, 1000):
        folder = plan.with_name(f"full-{point}")
        shutil.copytree(plan, folder)

        def act(number: int, work: Callable[[], Any], first: int = point) -> Any:
            if number >= first:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return work()

        with Operations(MAKES, act) as operations:
            told = ""
            try:
                finished(jobs.open(folder), job_lm, 2)
            except jobs.JobError as error:
                told = str(error)
        assert operations.count < point or told.endswith("No space left on device")
        assert "\n" not in told
        check(folder, job_lm, expected)
        shutil.rmtree(folder)
        if operations.count < point:
            break
    assert point > 2 * COUNT
