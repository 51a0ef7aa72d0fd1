"""Conversion of the ticks of a run to times."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from core_cases import Model, timed_run

from pyml_core import ShapeError, Slice
from pyml_core._native import read_milliseconds, read_thread_timings
from pyml_core.timing import MAX_PHASES, _spans_of, text_of_sums


def stamps_of(*threads: list[tuple[int, int]]) -> bytes:
    """Return each thread's (began, arrived) of every operation, in the form of the run loop."""
    return np.array([[[0, 0, 0, 0, 0, *span] for span in thread] for thread in threads], np.int64).tobytes()


def test_operations_end_with_their_last_thread() -> None:
    copied = np.array([0, 1600], np.int64).tobytes()
    begin, end, found, ms = read_thread_timings(
        stamps_of([(1010, 1200), (1300, 1400)], [(1020, 1290), (1300, 1500)]), copied, 2, (0, 1000), (1000, 2000)
    )
    assert (begin.tolist(), end.tolist(), ms) == ([0, 290], [290, 500], 1e-6)
    assert found[:, :, 5:].tolist() == [[[10, 200], [20, 290]], [[300, 400], [300, 500]]]


def test_ticks_that_run_backwards_or_are_left_from_another_run() -> None:
    """A thread's times are monotonic; an operation without work takes no time."""
    stale = (0, 90)
    begin, end, found, _ = read_thread_timings(
        stamps_of([(990, 1200), stale, (1190, 1400)]), bytes(3 * 8), 1, (0, 1000), (1000, 2000)
    )
    assert (begin.tolist(), end.tolist()) == ([0, 200, 200], [200, 200, 400])
    assert found[:, 0, 5:].tolist() == [[0, 200], [0, 0], [200, 400]]


def test_a_copy_made_by_one_thread_takes_nothing_from_the_other() -> None:
    operation = np.array([[40, 0, 0, 0, 0, 10, 60], [45, 0, 0, 0, 0, 12, 58]], np.int64)
    copy = np.array([[0, 0, 0, 0, 0, 0, 0], [5, 0, 0, 0, 0, 60, 66]], np.int64)
    spans = _spans_of(operation, copy, 10, 0, 1e-6)
    found = [(span.start_ns, span.end_ns, round(span.busy_ms * 1e6)) for span in spans]
    assert found == [(10, 60, 40), (12, 66, 50)]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_times_alone_are_those_of_the_timings(threads: int) -> None:
    model = Model(threads)
    pages, ids = model.pages(100), model.ids(100)
    for start, stop in ((0, 70), (70, 71), (71, 100)):
        _, timings = timed_run(model.program, [Slice(pages, start, ids[start:stop], [0])])
        assert timings.milliseconds.shape == (len(timings), 1 + MAX_PHASES)
        for timing, (wall, *parts) in zip(timings, timings.milliseconds.tolist(), strict=True):
            assert wall == timing.ms
            assert parts[: len(timing.phases)] == list(timing.phases.values())


def test_milliseconds_of_operations_that_are_not_there() -> None:
    stamps = (stamps_of([(990, 1200)]), bytes(8), 1, (0, 1000), (1000, 2000))
    with pytest.raises(ShapeError, match=r"native operations below 1, got 0 to 1"):
        read_milliseconds(*stamps, np.array([[0, 1]], np.int64))


@pytest.mark.parametrize("values", [[0.0, 0.0004, 0.0006], [1.25, 999.9996, 12345.678], [1e9, 0.1, 2.0]])
def test_text_of_sums(values: list[float]) -> None:
    numbers = np.array([values, [1, 2, 3]])
    text = text_of_sums([b"a=", "ms \u00e9=".encode(), b"ms"], numbers, np.array([0, 1, 5]), np.array([1, 3]))
    assert text == f"a={values[0]:.3f}ms \u00e9={values[1] + 3:.3f}ms"


@pytest.mark.parametrize(
    ("pieces", "places", "ends"), [([b"a"], [0], [1]), ([b"a", b"b"], [6], [1]), ([b"a", b"b"], [0], [2])]
)
def test_text_of_sums_that_do_not_fit(pieces: list[bytes], places: list[int], ends: list[int]) -> None:
    with pytest.raises(ShapeError, match="timings: expected"):
        text_of_sums(pieces, np.zeros((2, 3)), np.array(places), np.array(ends))


def in_numpy(
    ticks: bytes, copied: bytes, threads: int, span_ns: tuple[int, int], span_ticks: tuple[int, int]
) -> tuple[list[int], list[int], list[Any]]:
    """The reference for ``read_thread_timings``: begin and end of the operations, and the threads' timings, in ns."""
    found = np.frombuffer(ticks, np.int64).reshape(threads, -1, 7).swapaxes(0, 1).copy()
    (start_ns, end_ns), (start, end) = span_ns, span_ticks
    scale = (end_ns - start_ns) / (end - start) if end > start else 1.0

    def to_ns(ticks: Any) -> Any:
        return start_ns + np.rint((ticks - start) * scale).astype(np.int64)

    worked = found[:, :, 5] != 0
    told = np.where(worked[:, :, None], found[:, :, 5:], start).swapaxes(0, 1).reshape(threads, -1)
    own = np.maximum.accumulate(np.maximum(told, start), axis=1).reshape(threads, -1, 2).swapaxes(0, 1)
    moments = np.stack([own[:, :, 1].max(axis=1), np.frombuffer(copied, np.int64)], axis=1)
    edges = to_ns(np.maximum.accumulate(moments.ravel())).reshape(-1, 2)
    found[:, :, 5:] = np.where(worked[:, :, None], to_ns(own), 0)
    return [start_ns, *edges[:-1, 1].tolist()], edges[:, 0].tolist(), found.tolist()


def test_thread_timings_as_random_as_can_be(rng: np.random.Generator) -> None:
    """Random ticks, which may go backwards, and operations without work."""
    for _ in range(50):
        threads, count = 3, 7
        found = rng.integers(0, 2000, (threads, count, 7))
        found[rng.random((threads, count)) < 0.3, 5] = 0
        copied = rng.integers(0, 2000, count) * (rng.random(count) < 0.3)
        stamps = (found.tobytes(), copied.tobytes(), threads, (500, 90_500), (1000, 1900))
        begin, end, settled, _ = read_thread_timings(*stamps)
        assert (begin.tolist(), end.tolist(), settled.tolist()) == in_numpy(*stamps)


def test_thread_timings_of_another_run_are_refused() -> None:
    stamps = (stamps_of([(1, 2), (3, 4)]), bytes(16), 1, (0, 10), (0, 10))
    for wrong in ((stamps[0][:-8], *stamps[1:]), (*stamps[:2], 2, *stamps[3:]), (*stamps[:2], 0, *stamps[3:])):
        with pytest.raises(ShapeError, match="timings: expected the ticks of one run"):
            read_thread_timings(*wrong)
