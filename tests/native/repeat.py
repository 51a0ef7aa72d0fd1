"""Repeat a scenario while an allocation fails, or with fresh memory filled: in a process that has ``preloaded.c``.

``python -m tests.native.repeat fail NAME`` and ``... fill NAME``; the names are those of :data:`scenarios.SCENARIOS`.
The environment variable ``PYML_ALLOCATIONS`` says which fail: ``own``, those of the compiled module (the default);
``all``, some of NumPy's and of the interpreter's for it as well; ``every``, all of these, and the interpreter's for
Python code where a scenario allows that, which takes hours.
"""

from __future__ import annotations

import faulthandler
import gc
import hashlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from pyml_core.cpu import levels, use_level
from tests.native.preloaded import Preloaded
from tests.native.scenarios import SCENARIOS, Act, Scenario

PATIENCE = 120  # seconds that one repetition may take
PROCESSORS = 4  # in processes of their own: enough that some worker threads can be created and others not
WHICH = {"own": ("native",), "all": ("native", "arrays", "cython"), "every": ("native", "arrays", "cython", "python")}
FILLS = (0, 0xBE, 0xFF)


def digest(value: Any) -> str:
    """A hash of arrays, bytes, numbers and sequences of these, bit for bit."""
    found = hashlib.sha256()

    def add(part: Any) -> None:
        if isinstance(part, np.ndarray):
            found.update(f"{part.dtype}{part.shape}".encode() + np.ascontiguousarray(part).tobytes())
        elif isinstance(part, (list, tuple)):
            found.update(f"{len(part)}".encode())
            for one in part:
                add(one)
        else:
            found.update(repr(part).encode())

    add(value)
    return found.hexdigest()


def numbers(watched: str, wanted: str) -> Iterator[int]:
    """The calls that fail, each in its turn: all of the module's own, of others ever fewer unless all are wanted."""
    number = 0
    while True:
        number += 1 + (0 if watched == "native" or wanted == "every" else number // 10)
        yield number


def is_of_memory(error: Exception) -> bool:
    """Whether it is a MemoryError, or the equivalent of NumPy and the standard library; pyml has no equivalent."""
    if isinstance(error, MemoryError):
        return True
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    raised_by = frame.tb_frame.f_code.co_filename if frame is not None else ""
    if isinstance(error, SystemError):
        text = str(error)
        nothing_set = "without setting an exc" in text or "without exception set" in text
        return nothing_set and "pyml" not in text and "_native" not in raised_by
    return "pyml" not in raised_by or str(error) == "can't allocate lock"  # the interpreter's message about locks


def attempt(preloaded: Preloaded, act: Act, expected: str, number: int) -> bool:
    """Repeat with call ``number`` failing, and then without; returns whether there was such a call."""
    signal.alarm(PATIENCE)
    failed = False
    result = None
    preloaded.arm(number)
    try:
        result = act()
    except Exception as error:
        if not is_of_memory(error):
            raise
        failed = True
    finally:
        count = preloaded.disarm()
    if not failed and digest(result) != expected:
        raise AssertionError(f"call {number} of {count} failed: another result, and no error")
    if failed and count < number:
        raise AssertionError(f"call {number} of {count}: MemoryError although none failed")
    del result
    if digest(act()) != expected:
        raise AssertionError(f"after call {number} of {count} had failed: another result")
    signal.alarm(0)
    return count >= number


def in_a_fork(preloaded: Preloaded, act: Act, expected: str, number: int) -> bool:
    """:func:`attempt` in a process of its own."""
    child = os.fork()
    if not child:
        code = 2
        try:
            code = 0 if attempt(preloaded, act, expected, number) else 1
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status not in (0, 1):
        raise AssertionError(f"call {number}: the process ended with {status}")
    return status == 0


def fail(scenario: Scenario) -> None:
    """Every allocation in its turn fails; each ends in MemoryError or the right result, and the next try is right."""
    preloaded, wanted = Preloaded(), os.environ.get("PYML_ALLOCATIONS", "own")
    if scenario.forked:
        preloaded.processors(PROCESSORS)
    act = scenario.start()
    expected = digest(act()) if not scenario.forked else digest_of_a_fork(act)
    for watched in WHICH[wanted]:
        if watched not in scenario.watched:
            continue
        preloaded.watch(watched)
        tried = 0
        for number in numbers(watched, wanted):
            if not (in_a_fork if scenario.forked else attempt)(preloaded, act, expected, number):
                break
            tried += 1
            gc.collect()
        print(f"{watched}: {tried} of {number - 1} calls failed", flush=True)


def digest_of_a_fork(act: Act) -> str:
    """:func:`digest` of its result in a process of its own."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writer, digest(act()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        found = file.read()
    os.waitpid(child, 0)
    return found


def fill(scenario: Scenario) -> None:
    """The result does not depend on the content of fresh memory."""
    preloaded = Preloaded()
    for level in levels():
        found = {}
        for byte in FILLS:
            preloaded.fill(byte)
            with use_level(level):
                found[byte] = digest(scenario.start()())
        preloaded.fill(-1)
        if len(set(found.values())) > 1:
            raise AssertionError(f"{level}: another result: {found}")
        print(f"{level}: filled with {', '.join(map(hex, FILLS))}: the same", flush=True)


if __name__ == "__main__":
    faulthandler.register(signal.SIGALRM, chain=True)
    {"fail": fail, "fill": fill}[sys.argv[1]](SCENARIOS[sys.argv[2]])
