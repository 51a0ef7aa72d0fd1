"""From the ticks of a run to its times."""

from __future__ import annotations

import numpy as np

from pyml_core.timing import _laps, _read


def laps(*threads: list[tuple[int, int]]) -> bytes:
    """Each thread's (began, arrived) of every operation, in the form of the run loop."""
    return np.array([[[0, 0, 0, 0, 0, *lap] for lap in thread] for thread in threads], np.int64).tobytes()


def test_operations_end_with_their_last_thread() -> None:
    copied = np.array([0, 1600], np.int64).tobytes()
    begin, end, found, ms = _read(
        laps([(1010, 1200), (1300, 1400)], [(1020, 1290), (1300, 1500)]), copied, 2, (0, 1000), (1000, 2000)
    )
    assert (begin.tolist(), end.tolist(), ms) == ([0, 290], [290, 500], 1e-6)
    assert found[:, :, 5:].tolist() == [[[10, 200], [20, 290]], [[300, 400], [300, 500]]]


def test_ticks_that_run_backwards_or_are_left_from_another_run() -> None:
    """A thread's times never go back; an operation without work has none and takes none."""
    stale = (0, 90)
    begin, end, found, _ = _read(laps([(990, 1200), stale, (1190, 1400)]), bytes(3 * 8), 1, (0, 1000), (1000, 2000))
    assert (begin.tolist(), end.tolist()) == ([0, 200, 200], [200, 200, 400])
    assert found[:, 0, 5:].tolist() == [[0, 200], [0, 0], [200, 400]]


def test_a_copy_made_by_one_thread_takes_nothing_from_the_other() -> None:
    operation = np.array([[40, 0, 0, 0, 0, 10, 60], [45, 0, 0, 0, 0, 12, 58]], np.int64)
    copy = np.array([[0, 0, 0, 0, 0, 0, 0], [5, 0, 0, 0, 0, 60, 66]], np.int64)
    found = [(lap.start_ns, lap.end_ns, round(lap.busy_ms * 1e6)) for lap in _laps(operation, copy, 10, 0, 1e-6)]
    assert found == [(10, 60, 40), (12, 66, 50)]
