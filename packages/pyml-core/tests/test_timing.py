"""From the ticks of a run to its times."""

from __future__ import annotations

import re

import numpy as np
import pytest
from core_cases import Model

from pyml_core import PageTable, Program, ShapeError, Slice, Timings, _native, pack
from pyml_core.timing import PHASES, _laps, _read


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


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_times_alone_are_those_of_the_timings(threads: int) -> None:
    model = Model(threads)
    pages, ids = model.pages(100), model.ids(100)
    for start, stop in ((0, 70), (70, 71), (71, 100)):
        _, timings = model.program.run_timed([Slice(pages, start, ids[start:stop], [0])])
        wanted = [(one.operation, phase) for one in timings for phase in (None, *one.phases)]
        places = [timings.place(operation, phase, number) for number, (operation, phase) in enumerate(wanted)]
        places.append(timings.place(*wanted[0], 1))  # a number may have several terms
        expected = [ms for one in timings for ms in (one.ms, *one.phases.values())]
        expected[1] += expected[0]
        ms = np.zeros(len(wanted))
        timings.add_to(ms, np.array(places, np.int64))
        assert ms == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("threads", [1, 2])
def test_text_with_the_times_of_a_run(threads: int) -> None:
    """As Python's formatting has it, to the last digit, of several runs together where they are one step."""
    model = Model(threads)
    program, pages, ids = model.program, model.pages(100), model.ids(100)
    wanted = [(one, phase) for one in program.operations for phase in (None, *PHASES.get(one.kind, ()))]
    terms = [[term] for term in wanted] + [wanted]
    lines = program.lines([f"{number}=" for number in range(len(terms) + 1)], terms)
    assert lines.take() == ""
    for count in (1, 1, 3) * 20:
        ms = np.zeros(len(terms))
        for start in range(count):
            part = Slice(pages, 40 + start, ids[start : start + 1], [0])
            program.run([part], lines)
            timings = Timings(program.operations, program.kv, [part], program._compiled().timings())
            places = [timings.place(*term, number) for number, of_number in enumerate(terms) for term in of_number]
            timings.add_to(ms, np.array(places, np.int64))
        assert lines.take() == "".join(f"{number}={time:.3f}" for number, time in enumerate(ms)) + f"{len(ms)}="
        assert lines.take() == ""


def test_greedy_runs_have_a_text_each() -> None:
    model = Model(2)
    program, part = model.program, Slice(model.pages(100), 40, [1], [0])
    lines = program.lines(["<", ">"], [[(program.operations[-1], None)]])
    expected = program.run_greedy(part, 5)
    assert [one.token for one in program.run_greedy(part, 5, lines=lines)] == [one.token for one in expected]
    assert re.fullmatch(r"(<\d+\.\d{3}>){5}", lines.take())


def test_lines_of_another_program() -> None:
    program, other = Model(1).program, Program(4)
    other.embed("x", pack(np.ones((4, 32), np.float32)), other.buffer("x", 32))
    lines = program.lines(["", ""], [[(program.operations[0], None)]])
    with pytest.raises(ShapeError, match="laps: expected a program of"):
        other.run([Slice(PageTable(), 0, [1])], lines)
    with pytest.raises(ShapeError, match="place 0 is not in this run"):
        _native.LapText(["", ""], np.array([[0, 3, -1, 0]]), 3)


def test_laps_as_random_as_can_be(rng: np.random.Generator) -> None:
    """Also where ticks go backwards and operations had no work."""
    for _ in range(50):
        threads, count = 3, 7
        found = rng.integers(0, 2000, (threads, count, 7))
        found[rng.random((threads, count)) < 0.3, 5] = 0
        copied = rng.integers(0, 2000, count) * (rng.random(count) < 0.3)
        stamps = (found.tobytes(), copied.tobytes(), threads, (500, 90_500), (1000, 1900))
        begin, end, _, _ = _read(*stamps)
        ms = np.zeros(count)
        _native.lap_times(np.array([[i, i, -1, i] for i in range(count)]), ms, *stamps)
        assert ms == pytest.approx((end - begin) * 1e-6, abs=1e-12)


def test_places_outside_a_run_are_refused() -> None:
    stamps = (laps([(1, 2), (3, 4)]), bytes(16), 1, (0, 10), (0, 10))
    for place in ([0, 2, -1, 0], [-1, 0, -1, 0], [1, 0, -1, 0], [0, 0, 4, 0], [0, 0, -2, 0], [0, 0, -1, 1]):
        with pytest.raises(ShapeError, match="place 0 is not in this run"):
            _native.lap_times(np.array([place]), np.zeros(1), *stamps)
    with pytest.raises(ShapeError, match="not those of one run"):
        _native.lap_times(np.array([[0, 0, -1, 0]]), np.zeros(1), stamps[0][:-8], *stamps[1:])
