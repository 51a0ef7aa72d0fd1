"""Rates and the time that is left, by a clock of the test's own."""

from __future__ import annotations

from pyml_nlp.jobs.progress import Meter, Part


def meter(done: int = 0) -> Meter:
    """Of a job with 10 shards of 100 rows and 1000 tokens each, the first ``done`` of them finished."""
    left = range(done, 10)
    return Meter(dict.fromkeys(left, 100), dict.fromkeys(left, 1000), 10, 1000, now=0.0)


def test_nothing_is_known_at_first() -> None:
    found = meter().snapshot([], 0, 2, now=0.0)
    assert found.seconds_left is None
    assert (found.rows_per_second, found.rows_done, found.workers_alive, found.workers) == (0, 0, 0, 2)


def test_shards_of_an_earlier_run_count_as_done_but_not_as_speed() -> None:
    one = meter(done=4)
    one.leave(Part(4, 100, 3, 900, 0, 0))
    one.finish(4, 100, 3, 1)
    found = one.snapshot([Part(5, 50, 1, 450, 0, 0)], 1, 1, now=10.0)
    assert (found.shards_done, found.rows_done, found.errors, found.quarantined) == (5, 550, 4, 1)
    assert (found.rows_per_second, found.tokens_per_second, found.tokens) == (15.0, 135.0, 1350)
    assert found.seconds_left == 30.0  # 4500 tokens at 1500 in 10 s


def test_rows_of_an_earlier_attempt_are_not_speed() -> None:
    one = meter()
    found = one.snapshot([Part(0, 90, 0, 900, 80, 800)], 1, 1, now=10.0)
    assert (found.rows_done, found.rows_per_second, found.tokens_per_second) == (90, 1.0, 10.0)
    assert found.seconds_left == 910.0


def test_a_shard_that_is_made_twice_counts_once() -> None:
    one = meter()
    one.finish(3, 100, 0, 0)
    one.finish(3, 100, 0, 0)
    assert one.snapshot([], 1, 1, now=1.0).shards_done == 1


def test_rates_are_those_of_the_last_minute() -> None:
    one = meter()
    for second in range(100):
        one.snapshot([Part(0, min(second, 40), 0, 0, 0, 0)], 1, 1, now=float(second))
    found = one.snapshot([Part(0, 40, 0, 0, 0, 0)], 1, 1, now=100.0)
    assert found.rows_per_second == 0.0
    assert found.seconds_left == 2400.0  # 9600 of 10000 tokens are left, 400 took 100 s


def test_the_line() -> None:
    one = meter()
    one.finish(0, 100, 2, 0)
    assert str(one.snapshot([], 1, 2, now=1.0)) == (
        "0.0 rows/s, 0 tokens/s, 1 of 10 shards, 100 of 1000 rows, 1 of 2 workers, 2 errors"
    )
