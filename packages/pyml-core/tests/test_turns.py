"""Calls that wait for their turn behind another thread's run, and what ends the wait."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import numpy as np
import pytest
from core_cases import Model
from test_threads import long_program
from thread_cases import thread, until

from pyml_core import Cancelled, CancelToken, Program, use_level
from pyml_core.cpu import default_threads
from pyml_core.limits import measure_limits
from pyml_core.tensor import Tensor, pack

THREADS = default_threads()


@pytest.fixture
def busy() -> Iterator[None]:
    """The threads that all calls use are in a long run of another program."""
    with use_level("scalar"):
        run = long_program(THREADS)
    stop = threading.Event()

    def work() -> None:
        with suppress(Cancelled):
            run()
        stop.set()

    with thread(work):
        time.sleep(0.2)
        assert not stop.is_set()
        yield
        while not stop.wait(0.01):
            run.cancel()  # type: ignore[attr-defined]


def run_something() -> object:
    model = Model(THREADS)
    return model.run(model.pages(5), 0, model.ids(5))


def pack_something() -> object:
    return pack(Tensor.from_array(np.zeros((4096, 256), np.float32)))


def measure_something() -> object:
    return measure_limits(read_bytes=1 << 20)


@pytest.mark.usefixtures("busy")
def test_a_deadline_while_another_program_runs() -> None:
    model, start = Model(THREADS), time.monotonic()
    with CancelToken(0.1), pytest.raises(Cancelled):
        model.run(model.pages(10), 0, model.ids(10))
    assert time.monotonic() - start < 1


@pytest.mark.usefixtures("busy")
@pytest.mark.parametrize("call", [run_something, pack_something, measure_something])
def test_ctrl_c_while_another_program_runs(call: Callable[[], object]) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    sent: list[float] = []

    def send() -> None:
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(0.3, send)
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            call()
    finally:
        timer.join()
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - sent[0] < 1


def test_runs_that_wait_are_cancelled_with_the_one_in_progress() -> None:
    with use_level("scalar"):
        run = long_program(2)
    ended: list[float] = []
    assert run.__closure__
    program: Program = run.__closure__[1].cell_contents  # the second of batch and program

    def work() -> None:
        with pytest.raises(Cancelled):
            run()
        ended.append(time.monotonic())

    with ExitStack() as threads:
        for _ in range(3):
            threads.enter_context(thread(work))
        time.sleep(0.3)
        start = time.monotonic()
        program.stop()
        assert time.monotonic() - start < 2
        until(lambda: len(ended) == 3)
    assert max(ended) - start < 2
