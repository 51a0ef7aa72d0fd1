"""Shared by tests with threads: threads that have a lock, wait, or fork."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import pytest

from pyml_core import CancelToken
from pyml_core.locks import Lock, NoFork

PATIENCE = 60  # seconds until a test that waits gives up


@contextmanager
def thread(call: Callable[[], object]) -> Iterator[threading.Thread]:
    """Run ``call`` in a thread, which is joined at the end."""
    worker = threading.Thread(target=call, daemon=True)
    worker.start()
    try:
        yield worker
    finally:
        worker.join(PATIENCE)
        assert not worker.is_alive()


@contextmanager
def held(lock: Lock | NoFork) -> Iterator[threading.Event]:
    """Let a thread have the lock or section until the event is set or the block ends."""
    taken, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            taken.set()
            leave.wait(PATIENCE)

    with thread(hold):
        try:
            assert taken.wait(PATIENCE)
            yield leave
        finally:
            leave.set()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def in_child(call: Callable[[], object]) -> None:
    """Run ``call`` in a forked child, which must exit with 0."""
    process = multiprocessing.get_context("fork").Process(target=call)
    process.start()
    process.join(PATIENCE)
    if process.is_alive():
        process.kill()
        process.join()
        pytest.fail("the child hangs")
    assert process.exitcode == 0


def free(lock: Lock) -> None:
    """Check that a lock is free, by taking it."""
    with CancelToken(1), lock:
        pass


def all_free(locks: Iterable[Lock]) -> None:
    """Check that all locks are free."""
    for lock in locks:
        free(lock)


def waiting(lock: Lock, count: int) -> bool:
    """Whether ``count`` threads wait for the lock."""
    return lock.waiting == count


@contextmanager
def interrupting(lock: Lock, number: int = signal.SIGINT) -> Iterator[None]:
    """Send a signal as soon as a thread waits for the lock."""

    def send() -> None:
        until(lambda: lock.waiting == 1)
        os.kill(os.getpid(), number)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with thread(send):
            yield
    finally:
        signal.signal(signal.SIGINT, before)
