"""Claims of shards: one holder, which may die."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from thread_cases import in_child

from pyml_nlp.jobs.claims import EXPIRES_SECONDS, Claim, Claims, start_of, this_host


def foreign(folder: Path, shard: int, age: float, **changes: object) -> Path:
    """A claim of another machine, touched ``age`` seconds ago."""
    fields = {"host": "far", "process": 1, "started": 2, "worker": 0, "rows": 5, "tokens": 6, "since": 7.0, "idle": 8.0}
    path = Claims(folder).path(shard)
    folder.mkdir(exist_ok=True)
    path.write_text(json.dumps(fields | changes))
    os.utime(path, (time.time() - age,) * 2)
    return path


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_claim_has_one_holder(tmp_path: Path) -> None:
    folder = tmp_path / "workers"
    one, other = Claims(folder), Claims(folder)
    assert one.take(3, 0)
    assert not other.take(3, 1)
    assert other.take(4, 1)
    assert [(shard, claim.worker) for shard, claim in one.all()] == [(3, 0), (4, 1)]
    one.release_all()
    assert other.take(3, 1)
    other.release_all()
    assert files(folder) == []


def test_a_touch_tells_of_progress(tmp_path: Path) -> None:
    one = Claims(tmp_path)
    one.take(0, 2)
    one.touch(0, 10, 200, 3.25, 0.5)
    found = Claims(tmp_path).read(0)
    assert found is not None
    assert (found.rows, found.tokens, found.since, found.idle, found.process) == (10, 200, 3.2, 0.5, os.getpid())
    assert str(found) == f"worker 2 of process {os.getpid()} on {this_host().partition(':')[0]}"
    assert not found.expired
    assert files(tmp_path) == ["00000.claim"]


def test_a_claim_of_another_machine_expires(tmp_path: Path) -> None:
    foreign(tmp_path, 1, EXPIRES_SECONDS - 20)
    assert not Claims(tmp_path).take(1, 0)
    foreign(tmp_path, 1, EXPIRES_SECONDS + 1)
    assert list(Claims(tmp_path).all()) == []
    assert Claims(tmp_path).take(1, 0)
    assert files(tmp_path) == ["00001.claim"]


def test_a_claim_of_a_dead_process_of_this_machine_is_free_at_once(tmp_path: Path) -> None:
    in_child(lambda: Claims(tmp_path).take(7, 0))
    assert Claims(tmp_path).path(7).exists()
    assert Claims(tmp_path).take(7, 0)


def test_a_number_of_a_process_that_is_used_again_is_another_process(tmp_path: Path) -> None:
    own = start_of(os.getpid())
    assert own is not None
    claim = Claim(this_host(), os.getpid(), own, 0)
    assert not claim.expired
    assert Claim(this_host(), os.getpid(), own + 1, 0).expired


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": 1}', "[" * 3000, '{"since": "x"}'])
def test_a_damaged_claim_counts_by_its_age(content: str, tmp_path: Path) -> None:
    path = foreign(tmp_path, 0, 1)
    path.write_text(content)
    assert not Claims(tmp_path).take(0, 0)
    os.utime(path, (time.time() - EXPIRES_SECONDS - 1,) * 2)
    assert Claims(tmp_path).take(0, 0)


def test_who_was_too_slow_leaves_the_new_holders_claim(tmp_path: Path) -> None:
    slow, other = Claims(tmp_path), Claims(tmp_path)
    slow.take(0, 0)
    foreign(tmp_path, 0, 0)
    slow.release(0)
    assert other.read(0) is not None
    assert not other.take(0, 0)


def test_of_two_that_see_an_expired_claim_one_gets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one has looked just before."""
    foreign(tmp_path, 0, EXPIRES_SECONDS + 1)
    first, second = Claims(tmp_path), Claims(tmp_path)
    discard = second._discard

    def late(shard: int, expired: Claim) -> None:
        assert first.take(0, 0)
        discard(shard, expired)

    monkeypatch.setattr(second, "_discard", late)
    assert not second.take(0, 1)
    found = first.read(0)
    assert found is not None
    assert (found.host, found.process) == (this_host(), os.getpid())
    assert files(tmp_path) == ["00000.claim"]


def test_clocks_of_machines_may_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The age is by the file system's time."""
    foreign(tmp_path, 0, 5)
    monkeypatch.setattr(time, "time", lambda: 1e6)
    found = Claims(tmp_path).read(0)
    assert found is not None
    assert 4 < found.age < 20


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "workers").write_text("a file")
    with pytest.raises(OSError, match="workers"):
        Claims(tmp_path / "workers").take(0, 0)
    assert list(Claims(tmp_path / "workers").all()) == []
