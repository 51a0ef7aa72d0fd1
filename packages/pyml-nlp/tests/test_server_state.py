"""What a server tells about itself: its counts, the times of texts, and the records of its runs."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator

import pytest
from fake_model import FakeModel, calls, cycle, make
from server_cases import ONE, PATIENCE, Gate, at_runs, text

from pyml_nlp.errors import ArgumentError
from pyml_nlp.generation.run_stats import RunStats
from pyml_nlp.generation.text_stream import TextStream
from pyml_nlp.language_model import LanguageModel


@pytest.fixture
def lm() -> Iterator[LanguageModel]:
    """A model that writes the alphabet on and on."""
    with make(cycle, context=4000) as made:
        yield made


def test_nothing_is_there_before_the_first_text(lm: LanguageModel) -> None:
    server = lm.server
    assert (server.n_running, server.n_waiting, server.n_waiting_tokens) == (0, 0, 0)
    assert (server.running_kv_bytes, server.prefix_kv_bytes, server.last_step_at) == (0, 0, None)


def test_counts(lm: LanguageModel) -> None:
    """Two places, five texts; the first run is held."""
    lm.server.max_batch_size = 2
    gate = Gate(lm, 1)
    streams = [lm.submit([number + 1] * (10 * number + 70), max_tokens=3, **ONE) for number in range(5)]
    gate.wait()
    while len(lm.server._worker._arrived):  # type: ignore[union-attr]
        time.sleep(0.001)
    assert (lm.server.n_running, lm.server.n_waiting) in ((2, 3), (1, 4))
    assert lm.server.n_waiting_tokens in (90 + 100 + 110, 80 + 90 + 100 + 110)
    assert lm.server.running_kv_bytes >= 2 * FakeModel.kv_layout.page_bytes  # 70 positions
    gate.open()
    for stream in streams:
        text(stream)
    assert (lm.server.n_running, lm.server.n_waiting, lm.server.n_waiting_tokens) == (0, 0, 0)
    assert lm.server.running_kv_bytes == 0
    assert lm.server.prefix_kv_bytes == lm.prefix_cache.nbytes > 0
    assert lm.server.last_step_at is not None


def test_shared_pages_of_running_texts_count_once(lm: LanguageModel) -> None:
    prompt = [7] * 128
    lm.prefill(prompt)
    gate = Gate(lm, 1)
    streams = [lm.submit([*prompt, number], max_tokens=3, **ONE) for number in range(2)]
    gate.wait()
    shared = {id(page) for stream in streams for page in stream.completion.cache.pages[:2]}
    both = [len(stream.completion.cache.pages) for stream in streams]
    assert lm.server.running_kv_bytes == (sum(both) - (2 if min(both) else 0)) * FakeModel.kv_layout.page_bytes
    assert len(shared) == 2
    gate.open()
    for stream in streams:
        text(stream)


def test_times_of_a_text(lm: LanguageModel) -> None:
    lm.server.max_batch_size = 1
    before = time.monotonic()
    streams = [lm.submit("ab", max_tokens=20, **ONE) for _ in range(2)]
    ended = []
    for stream in streams:
        text(stream)
        one = stream.completion
        assert one.admitted_at is not None
        assert one.first_token_at is not None
        assert one.ended_at is not None
        assert before <= one.submitted_at <= one.admitted_at <= one.first_token_at <= one.ended_at <= time.monotonic()
        ended.append((one.admitted_at, one.ended_at))
    assert ended[1][0] >= ended[0][1]  # the second waited for the place


def test_times_that_never_come(lm: LanguageModel) -> None:
    lm.server.max_batch_size = 1
    gate = Gate(lm)
    first, second = lm.submit("ab", max_tokens=3, **ONE), lm.submit("xa", max_tokens=3, **ONE)
    gate.wait()
    second.cancel()
    gate.open()
    text(first)
    one = second.result(PATIENCE)
    assert (one.finish_reason, one.admitted_at, one.first_token_at) == ("cancelled", None, None)
    assert one.ended_at is not None


def test_observers_see_every_call(lm: LanguageModel) -> None:
    seen: list[RunStats] = []
    lm.server.observers.append(seen.append)
    streams = [lm.submit([number + 1] * 9, max_tokens=6, **ONE) for number in range(3)]
    for stream in streams:
        text(stream)
    text(lm.submit("zz", max_tokens=1, **ONE))  # the records of a run come after its results
    seen_before = [one for one in seen if one.prompt_tokens != 2]
    assert len(calls(lm)) - 1 <= len(seen_before) + 1
    assert sum(one.prompt_tokens for one in seen_before) == 27
    assert sum(one.prompts for one in seen_before) == 3
    assert sum(one.tokens for one in seen_before) == 18
    assert [one.texts for one in seen_before] == [
        len(call) - one.prompts for call, one in zip(calls(lm), seen_before, strict=False)
    ]
    assert all(one.runs == 1 and one.ms > 0 and one.drafted == one.accepted == 0 for one in seen_before)
    assert seen_before[-1].running == seen_before[-1].waiting == 0
    for stream in streams:
        own = [row for one in seen for row in one.by_text if row.sequence == stream.completion.sequence]
        assert (sum(row.prompt_tokens for row in own), sum(row.tokens for row in own)) == (9, 6)
    assert all(sum(row.tokens for row in one.by_text) == one.tokens for one in seen)
    assert [one.ended_at for one in seen] == sorted(one.ended_at for one in seen)


def test_records_of_several_runs_and_of_drafts(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[RunStats] = []
    lm.server.observers.append(seen.append)
    prompt = bytes(range(97, 123)) * 6
    stream = lm.submit(list(prompt), max_tokens=300, temperature=0)
    assert len(text(stream)) == 300
    text(lm.submit("zz", max_tokens=1, temperature=0))
    own = [one for one in seen if one.prompt_tokens != 2]
    assert sum(one.tokens for one in own) >= 300
    several, drafted = [one for one in own if one.runs > 1], [one for one in own if one.drafted]
    assert several or drafted
    assert all(one.tokens == one.runs and not one.drafted for one in several)
    assert all(one.tokens == one.accepted + 1 and one.accepted <= one.drafted for one in drafted)
    assert all((one.by_text[0].drafted, one.by_text[0].accepted) == (one.drafted, one.accepted) for one in own)
    whole = stream.completion
    assert (whole.drafted, whole.accepted) == (sum(one.drafted for one in own), sum(one.accepted for one in own))


def test_an_observer_that_raises_is_removed(lm: LanguageModel, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[RunStats] = []

    def bad(stats: RunStats) -> None:
        raise KeyError("observer")

    lm.server.observers += [bad, seen.append]
    with caplog.at_level(logging.ERROR, "pyml.generator"):
        assert len(text(lm.submit("ab", max_tokens=20, **ONE))) == 20
        text(lm.submit("zz", max_tokens=1, **ONE))
    assert len(lm.server.observers) == 1
    assert len(seen) >= 20
    assert [record.getMessage() for record in caplog.records] == [
        "an observer of the server is removed: KeyError: 'observer'"
    ]


def test_clients_and_priorities_are_checked(lm: LanguageModel) -> None:
    with pytest.raises(ArgumentError, match="client must be a text, got 5"):
        lm.submit("ab", client=5)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="priority must be a whole number, got 'high'"):
        lm.submit("ab", priority="high")  # type: ignore[arg-type]
    for gap, message in ((0, "max_gap must be > 0.0, got 0"), (None, "max_gap must be a number of seconds, got None")):
        with pytest.raises(ArgumentError, match=message):
            lm.server.max_gap = gap  # type: ignore[assignment]
    stream = lm.submit("ab", max_tokens=1, client="a", priority=3)
    assert (stream.completion.client, stream.completion.priority) == ("a", 3)
    stream.result(PATIENCE)


def test_places_go_to_the_client_that_was_served_least(lm: LanguageModel) -> None:
    """One client submits four texts at once, another two: they alternate. A priority comes before all."""
    lm.server.max_batch_size = 1
    gate = Gate(lm)
    first = lm.submit([99], max_tokens=1, **ONE)
    gate.wait()
    streams = [lm.submit([number + 1] * 5, max_tokens=4, client="many", **ONE) for number in range(4)]
    streams += [lm.submit([number + 11] * 5, max_tokens=4, client="few", **ONE) for number in range(2)]
    streams.append(lm.submit([21] * 5, max_tokens=4, client="many", priority=1, **ONE))
    gate.open()
    for stream in (first, *streams):
        text(stream)
    prompts = [ids[0] for call in calls(lm) for ids, _ in call if len(ids) == 5]
    assert prompts == [21, 11, 1, 12, 2, 3, 4]


def test_a_child_has_no_texts(lm: LanguageModel) -> None:
    gate = Gate(lm, 1)
    stream = lm.submit("ab", max_tokens=5, **ONE)
    gate.wait()
    child = os.fork()
    if not child:
        os._exit(lm.server.n_running + lm.server.n_waiting + lm.server.running_kv_bytes)
    assert os.waitpid(child, 0)[1] == 0
    gate.open()
    text(stream)


def test_runs_report_what_waits(lm: LanguageModel) -> None:
    seen: list[RunStats] = []
    lm.server.observers.append(seen.append)
    lm.server.max_batch_size = 1
    more: list[TextStream] = []
    at_runs(lm, {2: lambda: more.extend(lm.submit([number], max_tokens=1, **ONE) for number in range(1, 4))})
    text(lm.submit("ab", max_tokens=6, **ONE))
    for stream in more:
        text(stream)
    text(lm.submit("zz", max_tokens=1, **ONE))
    assert [(one.running, one.waiting) for one in seen[:6]] == [(1, 0), (1, 0), (1, 3), (1, 3), (1, 3), (0, 3)]
