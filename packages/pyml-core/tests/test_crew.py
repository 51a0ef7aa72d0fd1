"""How many threads a job has next to other processes: the policy alone, and runs next to processes that count."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from core_cases import Model, same_bits, timed_run
from ladder_library import CSRC, FLAGS, compiler

from pyml_core import Slice

PATIENCE = 60  # seconds until a test that waits gives up


def test_the_policy(tmp_path: Path) -> None:
    program = tmp_path / "crew_policy"
    sources = [Path(__file__).with_name("crew_policy.c"), CSRC / "crew.c"]
    subprocess.run([*compiler(), *FLAGS, "-O1", f"-I{CSRC}", *map(str, sources), "-o", str(program)], check=True)
    result = subprocess.run([program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[:2000]


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Processes that do nothing but count."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


PROCESSORS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


@pytest.mark.skipif(PROCESSORS < 2, reason="one processor, or a system that does not tell")
def test_busy_processors_take_threads_and_change_no_bits() -> None:
    """Two counting processes for each processor: sooner or later a run has one thread, and all give the same."""
    model = Model(2)
    pages, ids = model.pages(41), model.ids(41)
    model.run(pages, 0, ids[:40])
    step = [Slice(pages, 40, ids[40:], [0])]
    base = model.program.run(step)
    alone = 0
    with busy(2 * PROCESSORS):
        deadline = time.monotonic() + PATIENCE
        while alone < 20 and time.monotonic() < deadline:
            result, timings = timed_run(model.program, step)
            assert same_bits(result, base)
            alone += not any(timing.thread_spans[1].busy_ms for timing in timings)
    assert alone == 20
