"""The determinism checks again at every other CPU level that this machine has."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pyml_core import cpu

LEVELS = ("scalar", "avx2", "avx_vnni", "avx512", "avx512_vnni")

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("level", LEVELS)
def test_level(level: str) -> None:
    if level not in cpu.levels():
        pytest.skip(f"this CPU has no {level}")
    if level == cpu.level():
        pytest.skip(f"test_logits.py runs at {level}")
    done = subprocess.run(
        [sys.executable, "-m", "tests.determinism.determinism_checks"],
        env={**os.environ, "PYML_CPU_LEVEL": level, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"level {level}" in done.stdout
