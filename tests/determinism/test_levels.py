"""The determinism checks again at every other CPU level that this machine has."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyml_core import cpu

LEVELS = ("scalar", "avx2", "avx_vnni", "avx512", "avx512_vnni")
CHECKS = Path(__file__).with_name("determinism_checks.py")


@pytest.mark.parametrize("level", LEVELS)
def test_level(level: str) -> None:
    if level not in cpu.levels():
        pytest.skip(f"this CPU has no {level}")
    if level == cpu.level():
        pytest.skip(f"test_logits.py runs at {level}")
    done = subprocess.run(
        [sys.executable, str(CHECKS)], env={**os.environ, "PYML_CPU_LEVEL": level}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"level {level}" in done.stdout
