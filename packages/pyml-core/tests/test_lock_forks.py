"""Locks, sections and runs in the child of a fork."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import ExitStack

import pytest
from core_cases import Model, same_bits, timed_run
from test_locks import test_threads_get_a_lock_in_the_order_of_asking
from test_threads import long_program
from thread_cases import PATIENCE, all_free, free, held, in_child, interrupting, thread, until

from pyml_core import Cancelled, CancelToken, PymlError, Slice, _native
from pyml_core.cpu import use_level
from pyml_core.locks import Lock, NoFork
from pyml_core.timing import Capture


def test_locks_of_other_threads_are_free_in_the_child() -> None:
    lock = Lock()
    with held(lock):
        in_child(lambda: all_free([lock] * 3))
        with pytest.raises(Cancelled):  # in the parent, the lock is not free
            free(lock)
    free(lock)


def test_those_that_wait_are_not_in_the_child() -> None:
    lock = Lock()

    def child() -> None:
        assert lock.waiting == 0
        test_threads_get_a_lock_in_the_order_of_asking()
        free(lock)

    with ExitStack() as threads, held(lock):
        for _ in range(3):
            threads.enter_context(thread(lambda: free(lock)))
        until(lambda: lock.waiting == 3)
        in_child(child)


def test_the_forking_thread_keeps_its_own() -> None:
    lock = Lock()

    def child() -> None:
        with pytest.raises(RuntimeError, match="already has the lock"):
            free(lock)
        lock.__exit__(None, None, None)  # ends the enclosing block
        free(lock)

    with lock:
        in_child(child)
        with pytest.raises(RuntimeError, match="already has the lock"):
            free(lock)
    free(lock)


def test_a_fork_in_a_handler_while_a_thread_waits() -> None:
    """The child is the waiting thread, without the queue."""
    lock, children = Lock(), list[int]()

    def handle(*_: object) -> None:
        children.append(os.fork())

    with held(lock) as leave:
        before = signal.signal(signal.SIGUSR1, handle)
        try:
            with interrupting(lock, signal.SIGUSR1):
                threading.Timer(0.3, leave.set).start()
                with lock:
                    pass
        except Cancelled:
            if children == [0]:
                free(lock)
                os._exit(7)
            raise
        finally:
            signal.signal(signal.SIGUSR1, before)
    assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 7


def test_many_forks_among_busy_threads() -> None:
    locks, stop = [Lock() for _ in range(3)], threading.Event()

    def work() -> None:
        while not stop.is_set():
            for lock in locks:
                with lock:
                    Lock()  # the list of all locks changes, too

    with ExitStack() as threads:
        for _ in range(3):
            threads.enter_context(thread(work))
        for _ in range(30):
            in_child(lambda: all_free(locks))
        stop.set()


def test_a_fork_waits_for_a_section() -> None:
    section, left = NoFork("test"), list[bool]()
    inside = threading.Event()

    def work() -> None:
        with section, section:
            inside.set()
            time.sleep(0.1)
            left.append(True)

    def child() -> None:
        assert left
        with section:
            pass

    with thread(work):
        assert inside.wait(PATIENCE)
        in_child(child)


def test_a_section_within_another_one_does_not_wait_for_the_fork() -> None:
    """The fork waits for the outer section."""
    outer, inner, inside, left = NoFork("outer"), NoFork("inner"), threading.Event(), list[bool]()

    def work() -> None:
        with outer:
            inside.set()
            time.sleep(0.2)  # by now the fork waits
            with inner:
                left.append(True)

    def child() -> None:
        assert left
        with outer, inner:
            pass

    with thread(work):
        assert inside.wait(PATIENCE)
        start = time.monotonic()
        in_child(child)
        assert time.monotonic() - start < 5


def test_a_thread_can_fork_within_its_section() -> None:
    section = NoFork("test")

    def child() -> None:
        with section:
            pass

    with section:
        in_child(child)
    in_child(child)


def test_a_section_that_takes_too_long_says_so_in_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    section, other = NoFork("tree"), NoFork("other")
    monkeypatch.setattr(_native, "FORK_WAIT_SECONDS", 0.05)

    def child() -> None:
        message = "^tree: this process was forked while another thread used it, start a new one$"
        with pytest.raises(PymlError, match=message), section:
            pass
        with other:
            pass

    with held(section):
        in_child(child)
    with section:  # the parent can still use it
        pass


def test_threads_wait_for_a_fork_that_waits() -> None:
    """Otherwise a fork would never happen if sections are entered often."""
    section, stop = NoFork("test"), threading.Event()

    def work() -> None:
        while not stop.is_set():
            with section:
                time.sleep(0.002)

    with ExitStack() as threads:
        for _ in range(3):
            threads.enter_context(thread(work))
        for _ in range(10):
            start = time.monotonic()
            pid = os.fork()
            if pid == 0:
                with section:
                    os._exit(0)
            assert time.monotonic() - start < 5
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        stop.set()


def test_captures_of_a_run_that_is_not_in_the_child() -> None:
    """The captures of a run in the parent do not affect the child."""
    model = Model(2)
    ids = model.ids(60)
    base = model.run(model.pages(60), 0, ids)
    captures = [Capture(operation) for operation in model.program.operations]
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            timed_run(model.program, [Slice(model.pages(5), 0, ids[:5], range(5))], captures)

    def child() -> None:
        assert same_bits(model.run(model.pages(60), 0, ids), base)

    with thread(work):
        for _ in range(10):
            in_child(child)
        stop.set()


def test_a_fork_in_a_handler_during_a_run() -> None:
    """The child has no threads to finish the run: it is cancelled there, and another run can begin."""
    with use_level("scalar"):
        run = long_program(2)
    model = Model(2)
    base = model.run(model.pages(9), 0, model.ids(9))
    children: list[int] = []

    def handle(*_: object) -> None:
        children.append(os.fork())

    before = signal.signal(signal.SIGUSR1, handle)
    timer = threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    timer.start()
    try:
        with CancelToken(1.5), pytest.raises(Cancelled):
            run()
        if children == [0]:
            os._exit(7 if same_bits(model.run(model.pages(9), 0, model.ids(9)), base) else 1)
    finally:
        if children == [0]:
            os._exit(2)
        signal.signal(signal.SIGUSR1, before)
        timer.join()
    assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 7
