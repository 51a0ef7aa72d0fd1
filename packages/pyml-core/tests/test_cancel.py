"""Cancel tokens: they stop the runs of their thread, and no others."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from core_cases import Model, same_bits
from test_threads import long_program

from pyml_core import Cancelled, CancelToken
from pyml_core.cpu import use_level


def test_a_token_cancelled_before_the_run_stops_it() -> None:
    model = Model(2)
    ids = model.ids(100)
    base = model.run(model.pages(100), 0, ids)
    token = CancelToken()
    token.cancel()
    assert token.cancelled
    with token, pytest.raises(Cancelled, match="the run was cancelled"):
        model.run(model.pages(100), 0, ids)
    assert same_bits(model.run(model.pages(100), 0, ids), base)  # outside the token, nothing is stopped


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_cancelled_once_from_a_thread(threads: int) -> None:
    with use_level("scalar"):
        run = long_program(threads)
    token = CancelToken()
    canceller = threading.Timer(0.05, token.cancel)
    canceller.start()
    with token, pytest.raises(Cancelled):
        run()
    canceller.join()
    assert not token.expired


@pytest.mark.parametrize("threads", [1, 2])
def test_a_deadline_stops_a_run(threads: int) -> None:
    with use_level("scalar"):
        run = long_program(threads)
    token = CancelToken(0.05)
    assert not token.expired
    with token, pytest.raises(Cancelled):
        run()
    assert token.expired
    assert not token.cancelled


def test_a_far_deadline_is_none() -> None:
    model = Model(1)
    ids = model.ids(10)
    base = model.run(model.pages(10), 0, ids)
    for seconds in (1000.0, 1e30, float("inf")):
        with CancelToken(seconds) as token:
            assert same_bits(model.run(model.pages(10), 0, ids), base)
        assert not token.expired


def test_a_token_does_not_stop_other_runs() -> None:
    """Runs of one program wait for each other; cancelling a waiting run does not stop the one in progress."""
    model = Model(2)
    ids = model.ids(100)
    base = model.run(model.pages(100), 0, ids)
    cancelled = CancelToken()
    cancelled.cancel()
    stop = threading.Event()
    caught = []

    def others() -> None:
        while not stop.is_set():
            try:
                with cancelled:
                    model.run(model.pages(100), 0, ids)
            except Cancelled:
                caught.append(True)

    thread = threading.Thread(target=others)
    thread.start()
    deadline = time.monotonic() + 60
    runs = 0
    while (runs < 20 or not caught) and time.monotonic() < deadline:
        with CancelToken():
            assert same_bits(model.run(model.pages(100), 0, ids), base)
        runs += 1
    stop.set()
    thread.join()
    assert caught


def test_tokens_nest() -> None:
    model = Model(1)
    outer = CancelToken()
    with outer:
        with CancelToken():
            outer.cancel()
            model.run(model.pages(5), 0, model.ids(5))  # the inner token applies
        with pytest.raises(Cancelled):
            model.run(model.pages(5), 0, model.ids(5))
    assert np.isfinite(model.run(model.pages(5), 0, model.ids(5))).all()
