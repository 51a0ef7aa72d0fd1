"""Calls of tools in texts: formats of model families, and that a streamed text gives what the whole one gives."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from pyml_nlp.openai.tools import Call, CallSplitter, ToolFormat, format_of, object_spans

HERMES = "<tool_call>"
MISTRAL = "[TOOL_CALLS]"
LLAMA = 'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.'
TOOLS = {"add", "get_weather"}

CASES: dict[str, tuple[str, str, str, list[Call]]] = {
    "one": (HERMES, '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>', "", [Call("add", '{"a": 1}')]),
    "text before": (
        HERMES, 'Sure. <tool_call>{"name":"add","arguments":{ "a":[1,  2] }}</tool_call>', "Sure. ",
        [Call("add", '{ "a":[1,  2] }')],
    ),
    "two": (
        HERMES,
        '<tool_call>\n{"arguments": {"city": "Zürich"}, "name": "get_weather"}\n</tool_call>\n'
        '<tool_call>\n{"name": "add", "arguments": {}}\n</tool_call>',
        "", [Call("get_weather", '{"city": "Zürich"}'), Call("add", "{}")],
    ),
    "without an end": (HERMES, '<tool_call>{"name": "add", "arguments": {"a": 1}}', "", [Call("add", '{"a": 1}')]),
    "arguments as text": (
        HERMES, r'<tool_call>{"name": "add", "arguments": "{\"a\": 1}"}</tool_call>', "", [Call("add", '{"a": 1}')]
    ),
    "no arguments": (HERMES, '<tool_call>{"name": "add"}</tool_call>', "", [Call("add", "{}")]),
    "a list": (
        MISTRAL, '[TOOL_CALLS] [{"name": "add", "arguments": {"a": 1}}, {"name": "get_weather", "arguments": {}}]', "",
        [Call("add", '{"a": 1}'), Call("get_weather", "{}")],
    ),
    "bare": (LLAMA, ' {"name": "add", "parameters": {"a": "1"}}', "", [Call("add", '{"a": "1"}')]),
    "two bare": (
        LLAMA, '{"name": "add", "parameters": {}}; {"name": "get_weather", "parameters": {"c": 1}}', "",
        [Call("add", "{}"), Call("get_weather", '{"c": 1}')],
    ),
}  # fmt: skip

CONTENT = {
    "text": (HERMES, "A <tool is not a call."),
    "the beginning of a marker": (HERMES, "a <tool_cal"),
    "another tool": (HERMES, '<tool_call>{"name": "delete", "arguments": {}}</tool_call>'),
    "half of it": (HERMES, '<tool_call>{"name": "add", "arg'),
    "text after it": (HERMES, '<tool_call>{"name": "add", "arguments": {}}</tool_call> Done.'),
    "arguments that are a list": (HERMES, '<tool_call>{"name": "add", "arguments": [1]}</tool_call>'),
    "no JSON": (HERMES, "<tool_call>add(1)</tool_call>"),
    "a list that ends early": (MISTRAL, '[TOOL_CALLS] [{"name": "add", "arguments": {}}'),
    "JSON of another kind": (LLAMA, '{"a": 1}'),
    "a name alone": (LLAMA, '{"name": "add"}'),
    "a brace in a text": (LLAMA, 'It is {"name": "add", "parameters": {}}'),
    "white space": (LLAMA, " \n"),
}


class Bytes:
    """A tokenizer of characters."""

    eos_ids = (0,)

    def __init__(self) -> None:
        self.control_tokens: dict[str, int] = {}

    def stream_decoder(self, skip_special: bool) -> Any:
        assert not skip_special
        return self

    def push(self, token: int) -> str:
        return chr(token)


def form_of(sign: str) -> ToolFormat:
    form = format_of(f"a template with {sign} in it")
    assert form is not None
    return form


def split(sign: str, pieces: list[str]) -> tuple[str, list[Call]]:
    tokenizer: Any = Bytes()
    splitter = CallSplitter(form_of(sign), tokenizer, TOOLS)
    content = [splitter.push(1, piece) for piece in pieces]
    rest, calls = splitter.finish()
    return "".join([*content, rest]), calls


def pieces_of(text: str, seed: int) -> list[str]:
    places = sorted(random.Random(seed).sample(range(len(text) + 1), min(len(text), 1 + seed % 7)))
    return [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]


@pytest.mark.parametrize("name", CASES)
def test_calls_however_the_text_is_split(name: str) -> None:
    sign, text, content, calls = CASES[name]
    for pieces in ([text], list(text), *(pieces_of(text, seed) for seed in range(40))):
        assert split(sign, pieces) == (content, calls)
    assert all(isinstance(json.loads(call.arguments), dict) for call in calls)


@pytest.mark.parametrize("name", CONTENT)
def test_what_stays_text(name: str) -> None:
    sign, text = CONTENT[name]
    for pieces in ([text], list(text), *(pieces_of(text, seed) for seed in range(20))):
        assert split(sign, pieces) == (text, [])


def test_a_marker_that_is_a_token() -> None:
    """Text that spells it is no call: only the token is one."""
    tokenizer: Any = Bytes()
    tokenizer.control_tokens = {MISTRAL: 9999}
    text = '[{"name": "add", "arguments": {}}]'
    splitter = CallSplitter(form_of(MISTRAL), tokenizer, TOOLS)
    assert splitter.push(9999, "") == ""
    for token in text:
        assert splitter.push(ord(token), token) == ""
    splitter.push(0, "")
    assert splitter.finish() == ("", [Call("add", "{}")])
    spelled = CallSplitter(form_of(MISTRAL), tokenizer, TOOLS)
    content = "".join(spelled.push(ord(token), token) for token in MISTRAL + text)
    assert (content, spelled.finish()) == (MISTRAL + text, ("", []))


def test_unknown_templates_have_no_format() -> None:
    assert format_of("{{ messages }}{{ tools }}") is None


def test_ids_of_calls() -> None:
    assert len({form_of(HERMES).new_id() for _ in range(9)}) == 9
    assert form_of(HERMES).new_id().startswith("call_")
    assert len(form_of(MISTRAL).new_id()) == 9
    assert form_of(MISTRAL).new_id().isalnum()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{}", ({}, 2)),
        (' {"a" : [1, {"b": 2}] , "c":"}"} x', ({"a": '[1, {"b": 2}]', "c": '"}"'}, 32)),
        ('{"a": 1', None), ('{"a" 1}', None), ("[1]", None), ('{1: 2}', None), ('{"a": 1 "b": 2}', None), ("", None),
        ('{"a": ' + "[" * 5000, None),
    ],
)  # fmt: skip
def test_values_as_they_are_written(text: str, expected: Any) -> None:
    assert object_spans(text) == expected
