"""Runs fuzz targets in worker processes and reports every outcome that is neither success nor a PymlError of one line.

A finding is another exception, a warning, a signal, too much processor time or memory for an input of its size, or a
message that is broken or too long. A worker that hangs or dies is replaced, and its input is a finding.
"""

from __future__ import annotations

import collections
import mmap
import os
import random
import re
import resource
import signal
import struct
import time
import traceback
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pyml_core.errors import PymlError

CPU_SECONDS = 2.0
HANG_SECONDS = 30.0
MEMORY_BYTES = 96 << 20
MEMORY_PER_BYTE = 32
MESSAGE_CHARACTERS = 1500

Input = Any
"""The input of a target: a JSON value, so that a finding can be stored as a file."""


class Target(Protocol):
    """One door by which input comes in."""

    name: str

    def prepare(self, folder: Path) -> None:
        """Make the state that all inputs share, before workers are forked, without threads."""
        ...

    def make(self, rng: random.Random) -> Input:
        """An input."""
        ...

    def run(self, given: Input) -> int:
        """Use an input; returns its size in bytes. PymlError refuses it."""
        ...


@dataclass
class Report:
    """The outcome of a target's inputs.

    Attributes:
        accepted, refused: how many inputs.
        findings: description -> seeds of the inputs that showed it.
    """

    accepted: int = 0
    refused: int = 0
    findings: dict[str, list[int]] = field(default_factory=lambda: collections.defaultdict(list))

    @property
    def inputs(self) -> int:
        """All inputs that were run."""
        return self.accepted + self.refused + sum(map(len, self.findings.values()))


def attempt(target: Target, given: Input) -> str:
    """Run one input here; returns ``accepted``, ``refused``, or a description of the fault."""
    cpu, high = time.process_time(), _peak()
    size = 0
    outcome = "accepted"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", ResourceWarning)  # files are closed by reference counts
            size = target.run(given)
    except PymlError as error:
        text = str(error)
        outcome = "refused"
        if "\n" in text or not text.isprintable():
            outcome = f"message that is not one line: {_numberless(text)[:60]!r}"
        elif len(text) > MESSAGE_CHARACTERS + len(str(Path.cwd())):
            outcome = f"message of more than {MESSAGE_CHARACTERS} characters: {_numberless(text)[:60]!r}"
    except BaseException as error:
        outcome = _described(error)
    if time.process_time() - cpu > CPU_SECONDS:
        return f"more than {CPU_SECONDS:g} s of processor time"
    if _peak() - high > MEMORY_BYTES + MEMORY_PER_BYTE * size:
        return f"more than {MEMORY_BYTES >> 20} MB of memory"
    return outcome


def fuzz(target: Target, folder: Path, seconds: float, first_seed: int) -> Report:
    """Run inputs of ascending seeds for a time."""
    target.prepare(folder)
    report = Report()
    end = time.monotonic() + seconds
    seed = first_seed
    while time.monotonic() < end:
        seed = _one_worker(target, seed, end, report)
    return report


def _one_worker(target: Target, seed: int, end: float, report: Report) -> int:
    """Let a worker run inputs until the end, or until one kills or hangs it; returns the next seed."""
    shared = mmap.mmap(-1, 64)
    _note(shared, seed)
    source, sink = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(source)
        try:
            _work(target, seed, end, shared, sink)
        finally:
            os._exit(99)
    os.close(sink)
    os.set_blocking(source, False)
    data, status = b"", None
    while status is None:
        pid, state = os.waitpid(child, os.WNOHANG)
        data += _read(source)
        if pid:
            status = state
            data += _read(source)
        elif time.monotonic() - _noted(shared)[1] > HANG_SECONDS:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            report.findings[f"a hang: more than {HANG_SECONDS:g} s"].append(_noted(shared)[0])
            status = 0
        else:
            time.sleep(0.02)
    os.close(source)
    for line in data.decode(errors="replace").splitlines():
        number, _, outcome = line.partition("\t")
        if outcome == "accepted":
            report.accepted += 1
        elif outcome == "refused":
            report.refused += 1
        else:
            report.findings[outcome].append(int(number))
    at = _noted(shared)[0]
    if status:
        what = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit code {os.WEXITSTATUS(status)}"
        report.findings[f"the process ended with {what}"].append(at)
    return at + 1


def _work(target: Target, seed: int, end: float, shared: mmap.mmap, sink: int) -> None:
    out = os.fdopen(sink, "w", buffering=1)
    while time.monotonic() < end:
        _note(shared, seed)
        given = target.make(random.Random(seed))
        out.write(f"{seed}\t{attempt(target, given)}\n")
        seed += 1
    _note(shared, seed - 1)
    out.close()
    os._exit(0)


def _note(shared: mmap.mmap, seed: int) -> None:
    shared[:16] = struct.pack("<qd", seed, time.monotonic())


def _noted(shared: mmap.mmap) -> tuple[int, float]:
    seed, since = struct.unpack("<qd", shared[:16])
    return int(seed), float(since)


def _read(source: int) -> bytes:
    parts = []
    try:
        while part := os.read(source, 1 << 20):
            parts.append(part)
    except BlockingIOError:
        pass
    return b"".join(parts)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _described(error: BaseException) -> str:
    """Type, place and message of an exception, on one line and without numbers, so that equal faults are equal."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/packages/pyml-" in frame.filename] or list(frames)
    place = f"{Path(own[-1].filename).name}, {own[-1].name}" if own else "?"
    return f"{type(error).__name__} in {place}: {_numberless(str(error)[:90])}".replace("\n", " ").replace("\t", " ")


def _numberless(text: str) -> str:
    return re.sub(r"\d+", "N", text)
