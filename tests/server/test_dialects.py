"""However an answer is cut into parts, the events of each API build the answer that is not streamed."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pyml_nlp.answer import CallArguments, CallBegin, CallEnd, Part, ReasoningPart, TextPart
from pyml_nlp.anthropic import MessageAnswer
from pyml_nlp.ollama import OllamaAnswer
from pyml_nlp.openai.responses_answer import ResponseAnswer
from pyml_nlp.openai.responses_request import responses_request
from pyml_nlp.options.generation import GenerationOptions

from . import test_messages, test_ollama, test_responses

VALUES: Any = st.dictionaries(st.text(max_size=4), st.one_of(st.text(max_size=9), st.integers(), st.none()), max_size=3)
SEGMENTS = st.lists(
    st.one_of(
        st.tuples(st.just("text"), st.text(min_size=1, max_size=20)),
        st.tuples(st.just("reasoning"), st.text(min_size=1, max_size=20)),
        st.tuples(st.just("call"), VALUES),
    ),
    max_size=6,
)
SETTINGS = settings(max_examples=60, deadline=None)
COMPLETION: Any = SimpleNamespace(
    prompt=[1, 2, 3], tokens=[4, 5], reused=1, stopped_by=None, options=GenerationOptions(), submitted_at=1.0,
    admitted_at=2.0, ended_at=3.0, prefill_ms=5.0, decode_ms=6.0, drafted=0, accepted=0,
)  # fmt: skip


def parts_of(segments: Any, data: Any) -> list[list[Part]]:
    """The parts of segments, cut at random, in random groups."""
    parts: list[Part] = []
    calls = 0
    for kind, value in segments:
        text = json.dumps(value, ensure_ascii=False) if kind == "call" else value
        cuts = sorted(data.draw(st.lists(st.integers(1, len(text)), max_size=4)))
        pieces = [text[i:j] for i, j in zip([0, *cuts], [*cuts, len(text)], strict=True) if i < j]
        if kind == "call":
            found = [CallArguments(calls, piece) for piece in pieces]
            parts += [CallBegin(calls, f"call_{calls}", f"f{calls}"), *found, CallEnd(calls)]
            calls += 1
        else:
            made = TextPart if kind == "text" else ReasoningPart
            parts += [made(piece) for piece in pieces]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(parts)), max_size=5)))
    return [parts[i:j] for i, j in zip([0, *cuts], [*cuts, len(parts)], strict=True)]


def streamed(answer: Any, groups: list[list[Part]], reason: str) -> list[dict[str, Any]]:
    """All events, of parts that come in groups; the last group is held back to the end."""
    events = list(answer.begin(COMPLETION))
    for group in groups[:-1]:
        events += answer.push(group)
    return json.loads(json.dumps([*events, *answer.finish(groups[-1], COMPLETION, reason)]))  # type: ignore[no-any-return]


def whole(answer: Any, groups: list[list[Part]], reason: str) -> dict[str, Any]:
    """The answer, of parts that come at once."""
    answer.begin(COMPLETION)
    answer.push([part for group in groups for part in group])
    answer.finish([], COMPLETION, reason)
    return json.loads(json.dumps(answer.whole()))  # type: ignore[no-any-return]


REASONS = st.sampled_from(["stop", "length"])


@SETTINGS
@given(SEGMENTS, REASONS, st.data())
def test_responses_property(segments: Any, reason: str, data: Any) -> None:
    groups = parts_of(segments, data)

    def made() -> ResponseAnswer:
        common: Any = SimpleNamespace(options=GenerationOptions())
        return ResponseAnswer(responses_request({"input": "x"}), common, "m")

    events = streamed(made(), groups, reason)
    expected = whole(made(), groups, reason)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert test_responses.built(events) == test_responses.plain(expected)
    last = events[-1]["response"]
    assert test_responses.plain(last) == test_responses.plain(expected)
    assert last["status"] == ("incomplete" if reason == "length" else "completed")
    assert last["usage"] == expected["usage"]


@SETTINGS
@given(SEGMENTS, REASONS, st.data())
def test_messages_property(segments: Any, reason: str, data: Any) -> None:
    groups = parts_of(segments, data)
    events = streamed(MessageAnswer("m"), groups, reason)
    expected = whole(MessageAnswer("m"), groups, reason)
    assert test_messages.plain(test_messages.built(events)) == test_messages.plain(expected)
    calls = [block["input"] for block in expected["content"] if block["type"] == "tool_use"]
    assert calls == [value for kind, value in segments if kind == "call"]


@SETTINGS
@given(SEGMENTS, REASONS, st.data())
def test_ollama_property(segments: Any, reason: str, data: Any) -> None:
    groups = parts_of(segments, data)
    objects = streamed(OllamaAnswer("m", chat=True), groups, reason)
    expected = whole(OllamaAnswer("m", chat=True), groups, reason)
    assert test_ollama.built(objects) == test_ollama.plain(expected)
    assert expected["message"]["content"] == "".join(value for kind, value in segments if kind == "text")
