"""Inputs that once showed a fault, and a few new ones of each target."""

from __future__ import annotations

import json
import os
import random
import signal
import warnings
from pathlib import Path

import pytest

from tests.fuzz import driver, run

KEPT = sorted(run.CORPUS.glob("*/*.json"))


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, driver.Target]:
    found = {}
    for name, kind in run.TARGETS.items():
        found[name] = kind()
        found[name].prepare(tmp_path_factory.mktemp(name))
    return found


@pytest.mark.parametrize("path", KEPT, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_kept_inputs(path: Path, targets: dict[str, driver.Target]) -> None:
    assert driver.attempt(targets[path.parent.name], json.loads(path.read_text())) in ("accepted", "refused")


@pytest.mark.parametrize("name", run.TARGETS)
def test_inputs_can_be_kept_and_repeated(name: str, targets: dict[str, driver.Target]) -> None:
    """A target's input survives being written as JSON, and a seed makes an equal input again."""
    target = targets[name]
    for seed in range(3):
        given = target.make(random.Random(seed))
        kept = json.loads(json.dumps(given))
        assert json.dumps(target.make(random.Random(seed))) == json.dumps(given) == json.dumps(kept)
        assert driver.attempt(target, kept) in ("accepted", "refused")


class Faulty:
    """Shows one fault of each kind, by the seed."""

    name = "faulty"

    def prepare(self, folder: Path) -> None:
        pass

    def make(self, rng: random.Random) -> int:
        return rng.randrange(4)

    def run(self, given: int) -> int:
        if given == 0:
            raise KeyError("layers.1")
        if given == 1:
            warnings.warn("overflow encountered", RuntimeWarning, stacklevel=1)
        if given == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return 0


def test_the_driver_sees_faults(tmp_path: Path) -> None:
    report = driver.fuzz(Faulty(), tmp_path, 1.0, 0)
    assert report.accepted
    kinds = " ".join(report.findings)
    assert "KeyError in" in kinds
    assert "RuntimeWarning in" in kinds
    assert "the process ended with signal 9" in kinds
