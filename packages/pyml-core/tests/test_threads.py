"""The run loop and other threads: cancelling, Ctrl-C, forks, concurrent programs, and more threads than CPUs."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from core_cases import F32Array, Model, new_pages, normal, same_bits, timed_run

from pyml_core import Cancelled, KVLayout, Program, Slice, cpu_info, pack, quantize
from pyml_core.cpu import levels, use_level

PATIENCE = 60  # seconds until a test that waits gives up


def long_program(threads: int, layers: int = 2000) -> Callable[[], F32Array]:
    """Return a run of ten seconds or more: one linear layer, repeated."""
    width = 1024
    rng = np.random.default_rng(0)
    weight = pack(quantize(normal(rng, width, width, scale=0.01), "q8_0"), "q8_0", (width, width))
    program = Program(128, threads=threads)
    x, y = program.buffer("x", width), program.buffer("y", width)
    program.embed("x", weight, x)
    for layer in range(layers):
        program.linear(f"{layer}.there", x, [weight], y)
        program.linear(f"{layer}.back", y, [weight], x)
    batch = [Slice((), 0, np.arange(128, dtype=np.int32))]

    def run() -> F32Array:
        return program.run(batch)

    run.cancel = program.cancel  # type: ignore[attr-defined]
    return run


def cancel_until(run: Callable[[], F32Array], stop: threading.Event) -> None:
    """Cancel repeatedly, because cancelling before a run begins has no effect."""
    while not stop.wait(0.02):
        run.cancel()  # type: ignore[attr-defined]


# ---- stopping


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_cancel_from_a_thread(threads: int) -> None:
    """A run stops within a few work items; the program is usable afterwards."""
    with use_level("scalar"):
        run = long_program(threads)
    stop = threading.Event()

    canceller = threading.Thread(target=cancel_until, args=(run, stop))
    canceller.start()
    try:
        with pytest.raises(Cancelled, match="the run was cancelled"):
            run()
    finally:
        stop.set()
        canceller.join()


def test_a_cancelled_program_runs_again() -> None:
    model = Model(2)
    ids, pages = model.ids(100), model.pages(100)
    base = model.run(pages, 0, ids)
    model.program.cancel()  # without a run in progress, it has no effect on the next run
    assert same_bits(model.run(model.pages(100), 0, ids), base)
    stop = threading.Event()

    def cancel() -> None:
        while not stop.is_set():
            model.program.cancel()

    canceller = threading.Thread(target=cancel)
    canceller.start()
    cancelled = 0
    deadline = time.monotonic() + PATIENCE
    while not cancelled and time.monotonic() < deadline:
        try:
            model.run(pages, 0, ids)
        except Cancelled:
            cancelled += 1
    stop.set()
    canceller.join()
    assert cancelled
    assert same_bits(model.run(pages, 0, ids), base)


def test_cancel_before_the_first_run() -> None:
    program = Program(1)
    program.cancel()
    program.embed("x", pack(np.ones((2, 3), np.float32)), program.buffer("x", 3))
    assert program.run([Slice((), 0, [1])]).shape == (1, 3)


CTRL_C = """
import os, signal, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits that it is ignored
from test_threads import long_program
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background inherits "ignore"
run = long_program({threads})
sent = []
def send():
    time.sleep(0.5)
    sent.append(time.monotonic())
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=send, daemon=True).start()
try:
    run()
except KeyboardInterrupt:
    print("interrupted", time.monotonic() - sent[0])
"""


@pytest.mark.parametrize("threads", [1, 3])
def test_ctrl_c(threads: int) -> None:
    """SIGINT raises KeyboardInterrupt in a run at the slowest level, long before its end."""
    script = CTRL_C.format(threads=threads)
    env = {**os.environ, "PYML_CPU_LEVEL": "scalar", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout.startswith("interrupted"), done.stdout + done.stderr
    assert float(done.stdout.split()[1]) < 2


def test_signal_handlers_run_during_a_run() -> None:
    """A handler that does not raise does not end the run; one that raises ends it with its exception."""

    class Stop(Exception):
        pass

    seen = []

    def note(signum: int, frame: object) -> None:
        seen.append(signum)
        if len(seen) == 2:
            raise Stop

    before = signal.signal(signal.SIGUSR1, note)
    with use_level("scalar"):
        run = long_program(2)
    stop = threading.Event()

    def send() -> None:
        while not stop.wait(0.15):
            os.kill(os.getpid(), signal.SIGUSR1)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        with pytest.raises(Stop):
            run()
    finally:
        stop.set()
        sender.join()
        signal.signal(signal.SIGUSR1, before)
    assert len(seen) >= 2


# ---- concurrent runs


def test_two_programs_in_two_threads() -> None:
    """With equal numbers of threads (one pool, used in turns) and with different ones."""
    for pair in ((2, 2), (1, 3)):
        models = [Model(threads) for threads in pair]
        bases = [model.run(model.pages(60), 0, model.ids(60, i)) for i, model in enumerate(models)]
        wrong: list[int] = []

        def work(i: int, models: list[Model] = models, bases: list[F32Array] = bases) -> None:
            for _ in range(10):
                if not same_bits(models[i].run(models[i].pages(60), 0, models[i].ids(60, i)), bases[i]):
                    wrong.append(i)  # noqa: B023 (the threads are joined before the next round)

        workers = [threading.Thread(target=work, args=(i,)) for i in (0, 1)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(PATIENCE)
            assert not worker.is_alive()
        assert not wrong


def test_one_program_from_several_threads() -> None:
    """Runs wait for each other; each gets the logits of its own sequence, timed or not."""
    model = Model(2)
    bases = [model.run(model.pages(40), 0, model.ids(40, seed)) for seed in range(4)]
    failures: list[object] = []

    def work(seed: int) -> None:
        for step in range(8):
            part = Slice(model.pages(40), 0, model.ids(40, seed), range(40))
            if step % 2:
                result, timings = timed_run(model.program, [part])
                if len(timings) != len(model.program.operations):
                    failures.append(timings)
            else:
                result = model.program.run([part])
            if not same_bits(result, bases[seed]):
                failures.append(seed)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(PATIENCE)
        assert not worker.is_alive()
    assert not failures


def test_the_interpreter_is_free_during_a_run() -> None:
    """Other Python threads continue during a run."""
    with use_level("scalar"):
        run = long_program(1)
    steps, done = 0, threading.Event()

    def cancel_after_some_python() -> None:
        nonlocal steps
        deadline = time.monotonic() + PATIENCE
        while steps < 50_000 and time.monotonic() < deadline:
            steps += 1
        cancel_until(run, done)

    def work() -> None:
        with pytest.raises(Cancelled):
            run()
        done.set()

    worker = threading.Thread(target=work)
    worker.start()
    cancel_after_some_python()
    worker.join(PATIENCE)
    assert steps == 50_000


@pytest.mark.parametrize("threads", [32, 256])
def test_more_threads_than_processors(threads: int) -> None:
    base = Model(1)
    ids = base.ids(50)
    model = Model(threads)
    for _ in range(2):
        pages = model.pages(50)
        assert same_bits(model.run(pages, 0, ids[:49]), base.run(base.pages(50), 0, ids[:49]))
        model.run(pages, 49, ids[49:])


# ---- forks


def test_a_forked_child_runs() -> None:
    """Threads do not survive a fork: the child starts its own, for existing and for new programs."""
    model = Model(3)
    ids = model.ids(70)
    base = model.run(model.pages(70), 0, ids)
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()

    def child() -> None:
        results.put(model.run(model.pages(70), 0, ids))
        results.put(Model(3).run(model.pages(70), 0, ids))

    children = [context.Process(target=child) for _ in range(2)]
    for process in children:
        process.start()
    got = [results.get() for _ in range(4)]
    for process in children:
        process.join(PATIENCE)
        assert process.exitcode == 0
    assert all(same_bits(result, base) for result in got)
    assert same_bits(model.run(model.pages(70), 0, ids), base)  # the parent still has its threads


def test_a_fork_during_a_run() -> None:
    """Another thread is in a run when this one forks: the child can run any program."""
    with use_level("scalar"):
        run = long_program(2)
    other = Model(2)
    base = other.run(other.pages(20), 0, other.ids(20))

    done = threading.Event()

    def work() -> None:
        with pytest.raises(Cancelled):
            run()
        done.set()

    worker = threading.Thread(target=work)
    worker.start()
    time.sleep(0.2)

    def child() -> None:
        ok = same_bits(other.run(other.pages(20), 0, other.ids(20)), base)
        threading.Thread(target=cancel_until, args=(run, threading.Event()), daemon=True).start()
        work()
        os._exit(0 if ok else 1)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(PATIENCE)
    cancel_until(run, done)
    worker.join()
    assert process.exitcode == 0


def test_runs_that_end_with_the_process() -> None:
    """A process can exit while a daemon thread is in a run."""
    script = """
import threading, time
from test_threads import long_program
threading.Thread(target=long_program(2), daemon=True).start()
time.sleep(0.3)
print("end", flush=True)
"""
    env = {**os.environ, "PYML_CPU_LEVEL": "scalar", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (0, "end\n"), done.stderr


def test_attention_alone_uses_the_threads_too(level: str) -> None:
    """With one head and one token, only key blocks can be divided among threads, and they are."""
    layout = KVLayout(1, 1, 64)
    program = Program(1, layout, 4)
    qkv = program.embed("x", pack(normal(np.random.default_rng(0), 9, 192)), program.buffer("qkv", 192))
    program.prepare_qkv("prepare", qkv, 0, 1)
    program.attention("attention", qkv, 0, 1, program.buffer("out", 64), 0.125)
    pages = new_pages(layout, 4097)
    results = [program.run([Slice(pages, 4096, [at])]) for at in (3, 3)]
    assert same_bits(*results)
    assert np.isfinite(results[0]).all()


def test_info_names_the_level_in_use() -> None:
    for name in levels():
        with use_level(name):
            assert Model(1).program.level == cpu_info()["level"] == name
