"""Locks: the order in which threads get them, and how waiting ends."""

from __future__ import annotations

import signal
import threading
import time
from contextlib import ExitStack, suppress
from functools import partial

import pytest
from thread_cases import free, held, interrupting, thread, until, waiting

from pyml_core import Cancelled, CancelToken
from pyml_core.locks import Lock, cached_property


def test_threads_get_a_lock_in_the_order_of_asking() -> None:
    lock, order = Lock(), list[int]()

    def take(number: int) -> None:
        with lock:
            order.append(number)

    with ExitStack() as threads, held(lock) as leave:
        for number in range(6):
            threads.enter_context(thread(partial(take, number)))
            until(partial(waiting, lock, number + 1))
        leave.set()
    assert order == list(range(6))


def test_a_waiting_thread_is_not_passed_by() -> None:
    """A thread that takes the lock repeatedly does not starve one that waits."""
    lock, turns, stop = Lock(), [0], threading.Event()

    def often() -> None:
        while not stop.is_set():
            with lock:
                turns[0] += 1

    with thread(often):
        until(lambda: turns[0] > 100)
        for _ in range(100):
            with lock:
                pass
        stop.set()


def test_a_lock_keeps_threads_apart() -> None:
    lock, inside, most = Lock(), [0], [0]

    def work() -> None:
        for _ in range(200):
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0)
                inside[0] -= 1

    with ExitStack() as threads:
        for _ in range(4):
            threads.enter_context(thread(work))
    assert (most, inside, lock.waiting) == ([1], [0], 0)


def test_a_thread_that_has_the_lock_cannot_wait_for_it() -> None:
    lock = Lock()
    with lock, pytest.raises(RuntimeError, match="this thread already has the lock"):
        free(lock)
    free(lock)


def test_a_deadline_ends_the_wait() -> None:
    lock, start = Lock(), time.monotonic()
    with held(lock), CancelToken(0.1), pytest.raises(Cancelled, match="the run was cancelled"), lock:
        pass
    assert 0.1 <= time.monotonic() - start < 1
    free(lock)


def test_a_cancelled_token_ends_the_wait() -> None:
    lock, token = Lock(), CancelToken()

    def cancel() -> None:
        until(lambda: lock.waiting == 1)
        token.cancel()

    with held(lock), thread(cancel), token, pytest.raises(Cancelled), lock:
        pass
    assert lock.waiting == 0
    free(lock)


def test_dismissed_threads_go_and_the_next_one_waits() -> None:
    lock, gone = Lock(), list[int]()

    def take(number: int) -> None:
        with suppress(Cancelled), lock:
            return
        gone.append(number)

    with ExitStack() as threads, held(lock) as leave:
        for number in range(3):
            threads.enter_context(thread(partial(take, number)))
        until(lambda: lock.waiting == 3)
        lock.dismiss()
        until(lambda: len(gone) == 3)
        threads.enter_context(thread(lambda: take(3)))
        until(lambda: lock.waiting == 1)
        leave.set()
    assert sorted(gone) == [0, 1, 2]


def test_one_that_gives_up_leaves_the_queue_to_the_others() -> None:
    lock, order = Lock(), list[int]()
    tokens = [CancelToken() for _ in range(3)]

    def take(number: int) -> None:
        with suppress(Cancelled), tokens[number], lock:
            order.append(number)

    for leaves in range(3):
        order.clear()
        with ExitStack() as threads, held(lock) as leave:
            tokens[leaves] = CancelToken()
            for number in range(3):
                threads.enter_context(thread(partial(take, number)))
                until(partial(waiting, lock, number + 1))
            tokens[leaves].cancel()
            until(lambda: lock.waiting == 2)
            leave.set()
        tokens[leaves] = CancelToken()
        assert order == [number for number in range(3) if number != leaves]


def test_ctrl_c_ends_the_wait() -> None:
    lock = Lock()
    with held(lock), pytest.raises(KeyboardInterrupt), interrupting(lock), lock:
        pass
    assert lock.waiting == 0
    free(lock)


def test_a_handler_runs_and_the_wait_goes_on() -> None:
    lock, seen = Lock(), list[int]()
    with held(lock) as leave:

        def handle(number: int, _: object) -> None:
            seen.append(number)
            leave.set()

        before = signal.signal(signal.SIGUSR1, handle)
        try:
            with interrupting(lock, signal.SIGUSR1), lock:
                pass
        finally:
            signal.signal(signal.SIGUSR1, before)
    assert seen == [signal.SIGUSR1]


def test_a_cached_property_is_computed_once() -> None:
    class Thing:
        computed = 0

        @cached_property
        def value(self) -> int:
            """Its value."""
            self.computed += 1
            return self.computed

    thing, other = Thing(), Thing()
    assert (thing.value, thing.value, other.value) == (1, 1, 1)
    assert (Thing.value.__doc__, thing.__dict__["value"]) == ("Its value.", 1)
