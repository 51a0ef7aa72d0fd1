"""Bounds of the queue of a server: how many texts wait, how long, and what the refused ones are told."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from fake_model import calls, cycle, make
from server_cases import ONE, PATIENCE, Gate, text

from pyml_nlp.errors import ArgumentError, QueueFullError
from pyml_nlp.generation.completion import Completion
from pyml_nlp.generation.service_times import UNKNOWN, ServiceTimes
from pyml_nlp.generation.text_stream import TextStream
from pyml_nlp.language_model import LanguageModel


@pytest.fixture
def lm() -> Iterator[LanguageModel]:
    """A model that writes the alphabet on and on, for two texts at a time."""
    with make(cycle, context=4000) as made:
        made.server.max_batch_size = 2
        yield made


def submit(lm: LanguageModel, number: int, length: int = 5) -> TextStream:
    return lm.submit([number + 1] * length, max_tokens=3, **ONE)


def test_no_more_texts_wait_than_the_limit(lm: LanguageModel) -> None:
    lm.server.max_queue = 3
    gate = Gate(lm)
    streams = [submit(lm, number) for number in range(5)]  # two places, three that wait
    for _ in range(3):
        with pytest.raises(QueueFullError, match="expected at most 3 waiting texts, found 3 before this one") as caught:
            submit(lm, 9)
        assert (caught.value.position, caught.value.retry_after) == (3, 2 * UNKNOWN)
    gate.wait()
    gate.open()
    for stream in streams:
        assert len(text(stream)) == 3
    streams = [submit(lm, number) for number in range(5)]
    for stream in streams:
        text(stream)


@pytest.mark.parametrize("held", [False, True])
def test_without_a_queue_there_are_places(lm: LanguageModel, held: bool) -> None:
    """Also before the thread has seen the first texts."""
    lm.server.max_queue = 0
    gate = Gate(lm)
    streams = [submit(lm, 0)]
    if held:
        gate.wait()
    streams.append(submit(lm, 1))
    with pytest.raises(QueueFullError, match="at most 0 waiting texts, found 0 before"):
        submit(lm, 2)
    gate.open()
    for stream in streams:
        text(stream)
    text(submit(lm, 3))


def test_tokens_of_prompts_that_wait(lm: LanguageModel) -> None:
    lm.server.max_queue_tokens = 100
    gate = Gate(lm)
    streams = [submit(lm, number, 300) for number in range(2)]  # they have places
    gate.wait()
    streams += [submit(lm, 3, 60), submit(lm, 4, 30)]
    with pytest.raises(QueueFullError, match="prompts of at most 100 tokens to wait, found 90 and 11 of this one"):
        submit(lm, 5, 11)
    streams.append(submit(lm, 6, 10))
    streams[2].cancel()  # its tokens do not wait any more
    streams.append(submit(lm, 7, 60))
    gate.open()
    for stream in streams:
        stream.result(PATIENCE)


def test_limits_are_exact_for_many_threads(lm: LanguageModel) -> None:
    lm.server.max_queue = 7
    gate = Gate(lm)
    streams: list[TextStream] = []
    refused: list[QueueFullError] = []

    def ask(start: int) -> None:
        for number in range(10):
            try:
                streams.append(submit(lm, start + number))
            except QueueFullError as error:
                refused.append(error)

    threads = [threading.Thread(target=ask, args=(10 * number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert (len(streams), len(refused)) == (9, 51)
    assert {error.position for error in refused} == {7}
    gate.open()
    for stream in streams:
        text(stream)


def test_the_estimate_follows_the_times_of_texts() -> None:
    times = ServiceTimes()
    assert times.wait(0, 2) == UNKNOWN / 2

    def ended(seconds: float | None) -> Completion:
        completion = make(cycle).generate("a").completion
        completion.ended_at = 100.0
        completion.admitted_at = None if seconds is None else 100.0 - seconds
        return completion

    times.learn(ended(None))  # cancelled while it waited
    assert times.wait(0, 2) == UNKNOWN / 2
    for _ in range(5):
        times.learn(ended(8.0))
    assert times.wait(3, 4) == 8.0
    for _ in range(60):
        times.learn(ended(2.0))
    assert 2.0 <= times.wait(3, 4) < 2.1


def test_a_text_that_waits_too_long_ends(lm: LanguageModel) -> None:
    gate = Gate(lm)
    running = [lm.submit([number + 1] * 5, max_tokens=3, queue_timeout=0.05, **ONE) for number in range(2)]
    gate.wait()
    while len([one for one in running if one.completion.placed]) < 1:
        time.sleep(0.001)
    waiting = [lm.submit([number + 11] * 5, max_tokens=3, queue_timeout=0.05, **ONE) for number in range(4)]
    patient = lm.submit([99] * 5, max_tokens=3, queue_timeout=PATIENCE, **ONE)
    time.sleep(0.1)
    gate.open()
    for stream in waiting:
        one = stream.result(PATIENCE)
        assert (one.finish_reason, one.tokens, one.admitted_at) == ("timeout", [], None)
    assert len(text(patient)) == 3
    assert running[0].result(PATIENCE).finish_reason == "length"
    assert not [ids for call in calls(lm) for ids, _ in call if 11 <= ids[0] < 15]


def test_values(lm: LanguageModel) -> None:
    for name in ("max_queue", "max_queue_tokens"):
        assert getattr(lm.server, name) is None
        with pytest.raises(ArgumentError, match=f"{name} must be >= 0, got -1"):
            setattr(lm.server, name, -1)
        setattr(lm.server, name, 5)
        assert getattr(lm.server, name) == 5
        setattr(lm.server, name, None)
    with pytest.raises(ArgumentError, match=r"queue_timeout must be > 0\.0, got 0"):
        lm.submit("a", queue_timeout=0)
