"""Bodies of requests in OpenAI's form: what each field becomes, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from pyml_core.errors import Cancelled, OutOfMemoryError, PymlError
from pyml_nlp import ArgumentError, ChatTemplateError, GenerationOptions, SamplingOptions
from pyml_nlp.openai import error_body, error_status
from pyml_nlp.openai.requests import ChatRequest, CompletionRequest, chat_request, completion_request
from pyml_nlp.openai.tool_use import ToolUse
from pyml_nlp.values import check_ids, token_ids
from pyml_nn import ContextOverflowError

DEFAULTS = GenerationOptions(sampling=SamplingOptions(0.6, top_k=50, top_p=0.9))
HI = [{"role": "user", "content": "Hi"}]
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
INFINITY = float("inf")


def chat(**fields: Any) -> ChatRequest:
    return chat_request({"messages": HI, **fields}, DEFAULTS, 100)


def completion(**fields: Any) -> CompletionRequest:
    return completion_request({"prompt": "a", **fields}, DEFAULTS)


def test_defaults() -> None:
    request = chat()
    assert request.common.options == DEFAULTS.replace(max_tokens=100)
    assert (request.common.n, request.common.stream, request.common.timeout, request.tools) == (1, False, None, None)
    assert request.chat.add_generation_prompt
    assert completion().common.options == DEFAULTS.replace(max_tokens=16)


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({"temperature": 0}, {"temperature": 0.0}),
        ({"temperature": None, "stop": None, "n": None, "seed": None}, {}),
        ({"top_p": 0.5, "presence_penalty": 2}, {"top_p": 0.5, "presence_penalty": 2.0}),
        ({"frequency_penalty": -2}, {"frequency_penalty": -2.0}),
        ({"top_p": 0}, {"temperature": 0.0}),
        ({"seed": -1}, {"seed": 2**64 - 1}),
        ({"seed": 7}, {"seed": 7}),
        ({"stop": "x"}, {"stop": "x"}),
        ({"stop": ["x", "yz"], "stop_token_ids": [3]}, {"stop": ["x", "yz"], "stop_ids": [3]}),
        ({"include_stop_str_in_output": True}, {"include_stop": True}),
        ({"logit_bias": {"5": -100, "6": 100, "7": 1.5}}, {"logit_bias": {5: -INFINITY, 6: 100.0, 7: 1.5}}),
        ({"logit_bias": {}}, {}),
        ({"max_tokens": 3}, {"max_tokens": 3}),
        ({"top_k": 4, "min_p": 0.1, "typical_p": 0.9}, {"top_k": 4, "min_p": 0.1, "typical_p": 0.9}),
        ({"repeat_penalty": 1.2}, {"repetition_penalty": 1.2}),
        ({"response_format": {"type": "text"}}, {}),
        ({"response_format": {"type": "json_object"}}, {"schema": {"type": "object"}}),
        ({"response_format": {"type": "json_object", "schema": {"const": 1}}}, {"schema": {"const": 1}}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"const": 1}}}},
            {"schema": {"const": 1}},
        ),
        ({"structured_outputs": {"regex": "a+"}}, {"regex": "a+"}),
        ({"structured_outputs": {"choice": ["a b", "c+"]}}, {"regex": r"a\ b|c\+"}),
        ({"user": "me", "metadata": {"a": "b"}, "store": True, "service_tier": "auto"}, {}),
    ],
)
def test_fields_of_both(fields: dict[str, Any], options: dict[str, Any]) -> None:
    assert chat(**fields).common.options == DEFAULTS.replace(**{"max_tokens": 100, **options})
    assert completion(**fields).common.options == DEFAULTS.replace(**{"max_tokens": 16, **options})


def test_fields_of_chats() -> None:
    request = chat(
        max_completion_tokens=5, max_tokens=9, logprobs=True, top_logprobs=3, n=2, stream=True, timeout=2,
        stream_options={"include_usage": True}, return_token_ids=True,
    )  # fmt: skip
    common = request.common
    assert (common.options.max_tokens, common.options.logprobs) == (5, 3)
    assert (common.n, common.stream, common.include_usage, common.timeout) == (2, True, True, 2.0)
    assert common.return_token_ids
    assert chat(logprobs=True).common.options.logprobs == 0
    assert chat(logprobs=False).common.options.logprobs is None
    assert chat(reasoning_effort="none").chat.variables == {"enable_thinking": False}
    assert chat(reasoning_effort="low").chat.variables == {"reasoning_effort": "low"}
    assert chat(chat_template_kwargs={"x": 1}).chat.variables == {"x": 1}
    assert chat(continue_final_message=True).chat.continue_final_message


NOTE = {"type": "function", "function": {"name": "note", "strict": True, "description": "Notes a text."}}


@pytest.mark.parametrize(
    ("fields", "names", "required", "parallel"),
    [
        ({}, ("add", "note"), False, True),
        ({"tool_choice": "auto", "parallel_tool_calls": False}, ("add", "note"), False, False),
        ({"tool_choice": "required"}, ("add", "note"), True, True),
        ({"tool_choice": {"type": "function", "function": {"name": "note"}}}, ("note",), True, False),
        ({"tool_choice": {"type": "function", "name": "note"}}, ("note",), True, False),
        (
            {"tool_choice": {"type": "allowed_tools", "allowed_tools": {
                "mode": "required", "tools": [{"type": "function", "function": {"name": "add"}}]}}},
            ("add",), True, True,
        ),
        (
            {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "add"}]}},
            ("add",), False, True,
        ),
    ],
)  # fmt: skip
def test_tools(fields: dict[str, Any], names: tuple[str, ...], required: bool, parallel: bool) -> None:
    request = chat(tools=[TOOL, NOTE], **fields)
    assert request.tools == ToolUse([TOOL, NOTE], names, required, parallel, strict=True)
    assert request.chat.tools == [TOOL, NOTE]


def test_no_tools() -> None:
    for request in (chat(tools=[TOOL], tool_choice="none"), chat(tool_choice="none"), chat(parallel_tool_calls=False)):
        assert (request.tools, request.chat.tools) == (None, None)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [("a", ["a"]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1], [2, 3]], [[1], [2, 3]])],
)
def test_prompts(prompt: Any, expected: list[Any]) -> None:
    assert completion(prompt=prompt).prompts == expected


CHAT_REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"messages": None}, "messages", "is required"),
    ({"max_token": 5}, "max_token", "is not a field of this request: did you mean 'max_tokens'?"),
    ({"zzzzzz": 5}, "zzzzzz", "is not a field of this request"),
    ({"prompt": "x"}, "prompt", "is not a field of this request"),
    ({"temperature": 2.5}, "temperature", "must be in 0 .. 2, got 2.5"),
    ({"temperature": "0"}, "temperature", "must be a number, got '0'"),
    ({"top_p": 1.5}, "top_p", "must be in 0 .. 1, got 1.5"),
    ({"presence_penalty": -3}, "presence_penalty", "must be in -2 .. 2, got -3"),
    ({"n": 0}, "n", "must be > 0, got 0"),
    ({"n": 9}, "n", "must be <= 8, got 9"),
    ({"seed": 2**64}, "seed", "must be <= 18446744073709551615, got 18446744073709551616"),
    ({"seed": 0.5}, "seed", "must be a whole number, got 0.5"),
    ({"stop": [""]}, "stop", "must be of one character or more, got an empty text"),
    ({"stop": ["a"] * 65}, "stop", "must be at most 64 texts, got 65"),
    ({"stop": "a" * 257}, "stop", "must be of at most 256 characters, got one of 257"),
    ({"logit_bias": {"1": 101}}, "logit_bias.1", "must be in -100 .. 100, got 101"),
    ({"logit_bias": {"a": 1}}, "logit_bias", "must be token ids, got 'a'"),
    ({"logit_bias": [1]}, "logit_bias", "must be an object of token ids with numbers, got [1]"),
    ({"max_tokens": 0}, "max_tokens", "must be > 0, got 0"),
    ({"stream": 1}, "stream", "must be True or False, got 1"),
    ({"stream_options": {}}, "stream_options", "needs stream to be true"),
    ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x", "is not a field of this request"),
    ({"top_logprobs": 2}, "top_logprobs", "needs logprobs to be true"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "must be <= 20, got 21"),
    ({"tools": []}, "tools", "must be a list of 1 to 128 tools, got []"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type", "must be one of function, got 'web_search'"),
    ({"tools": [{"type": "function"}]}, "tools[0].function", "is required"),
    ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name", "is required"),
    ({"tool_choice": "auto"}, "tool_choice", "needs tools"),
    ({"tools": [{**TOOL, "x": "a" * 2**18}]}, "tools", "must be at most 262144 characters of JSON, got 262238"),
    ({"tools": [{("a",): 1}]}, "tools", "must be JSON: keys must be str, int, float, bool or None, not tuple"),
    ({"tools": [TOOL, TOOL]}, "tools", "must have different names, got 'add' twice"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name",
        "must be 1 to 128 letters, digits and _.:/-, got 'a b'"),
    ({"tools": [{"type": "function", "function": {"name": "a", "parameters": {"type": "array"}}}]},
        "tools[0].function.parameters", "must be a schema of objects, got {'type': 'array'}"),
    ({"tools": [TOOL], "tool_choice": "any"}, "tool_choice", "must be one of none, auto, required, or an object, "
        "got 'any'"),
    ({"tools": [TOOL], "tool_choice": {"type": "custom"}}, "tool_choice.type",
        "must be one of function, allowed_tools, got 'custom'"),
    ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice.function.name",
        "must be one of the tools ('add'), got 'x'"),
    ({"tools": [TOOL], "tool_choice": {"type": "function"}}, "tool_choice.name", "is required"),
    ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}},
        "tool_choice.allowed_tools.tools", "must be a list of tools, got []"),
    ({"tools": [TOOL], "parallel_tool_calls": 1}, "parallel_tool_calls", "must be True or False, got 1"),
    ({"functions": []}, "functions", "is not supported: use tools"),
    ({"audio": {}}, "audio", "is not supported: answers are texts"),
    ({"modalities": ["audio"]}, "modalities", "must be ['text']"),
    ({"chat_template": "{{ x }}"}, "chat_template", "is not supported: the model's own template is used"),
    ({"response_format": "json"}, "response_format", "must be an object, got 'json'"),
    ({"response_format": {}}, "response_format.type", "is required"),
    ({"response_format": {"type": "xml"}}, "response_format.type", "must be one of text, json_object, json_schema, "
        "got 'xml'"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "is required"),
    ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.json_schema.schema",
        "is required"),
    ({"structured_outputs": {"choice": []}}, "structured_outputs.choice", "must be a list of texts, got []"),
    ({"structured_outputs": {"choice": ["a"], "regex": "a"}}, "structured_outputs",
        "must be one of json, regex, choice and grammar"),
    ({"structured_outputs": {"regex": "a"}, "response_format": {"type": "text"}}, "structured_outputs",
        "cannot be used together with response_format"),
    ({"chat_template_kwargs": []}, "chat_template_kwargs", "must be an object, got []"),
    ({"timeout": 0}, "timeout", "must be > 0.0, got 0"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "name", "problem"), CHAT_REFUSED)
def test_refused_in_chats(fields: dict[str, Any], name: str, problem: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        chat(**fields)
    assert (caught.value.name, caught.value.problem) == (name, problem)
    expected = {"message": str(caught.value), "type": "invalid_request_error", "param": name, "code": None}
    assert error_body(caught.value) == {"error": expected}


@pytest.mark.parametrize(
    ("fields", "name", "problem"),
    [
        ({"prompt": 5}, "prompt", "must be a text, token ids, or a list of these, got 5"),
        ({"prompt": []}, "prompt", "must be at least one token, got none"),
        ({"prompt": [[1], []]}, "prompt", "must be at least one token, got none"),
        ({"prompt": ["a", 1]}, "prompt", "must be a text or token ids, got 'a' at 0; for several prompts: "
            "generate_batch"),
        ({"prompt": ["a"] * 65}, "prompt", "must be at most 64 prompts, got 65"),
        ({"messages": HI}, "messages", "is not a field of this request"),
        ({"logprobs": True}, "logprobs", "must be a whole number, got True"),
        ({"best_of": 2}, "best_of", "is not supported, except as n (1), got 2"),
        ({"suffix": "x"}, "suffix", "is not supported"),
        ({"max_tokens": 0}, "max_tokens", "must be > 0, got 0"),
    ],
)  # fmt: skip
def test_refused_in_completions(fields: dict[str, Any], name: str, problem: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        completion(**fields)
    assert (caught.value.name, caught.value.problem) == (name, problem)


@pytest.mark.parametrize("body", [None, [], "x", 5, {1: 2}])
def test_bodies_that_are_no_objects(body: Any) -> None:
    with pytest.raises(ArgumentError, match=r"^request must be an object, got "):
        chat_request(body, DEFAULTS, 5)


@pytest.mark.parametrize(
    ("error", "status", "code", "param"),
    [
        (ContextOverflowError("x"), 400, "context_length_exceeded", None),
        (ChatTemplateError("x"), 400, None, "messages"),
        (ArgumentError("x"), 400, None, None),
        (OutOfMemoryError("x"), 503, "out_of_memory", None),
        (Cancelled("x"), 504, "timeout", None),
        (PymlError("x"), 500, None, None),
    ],
)
def test_errors(error: PymlError, status: int, code: str | None, param: str | None) -> None:
    kind = "invalid_request_error" if status == 400 else "server_error"
    assert error_status(error) == status
    assert error_body(error) == {"error": {"message": "x", "type": kind, "param": param, "code": code}}


def test_long_prompts_are_counted_before_they_are_checked() -> None:
    """A list with more ids than the context has positions is refused whatever is in it."""
    with pytest.raises(ContextOverflowError, match="max=100, actual=1000"):
        completion_request({"prompt": ["wrong"] + [5] * 999}, DEFAULTS, longest=100)
    with pytest.raises(ContextOverflowError, match="actual=101"):
        completion_request({"prompt": [[1], [5] * 101]}, DEFAULTS, longest=100)
    assert completion_request({"prompt": [[1], [5] * 100]}, DEFAULTS, longest=100).prompts == [[1], [5] * 100]


@pytest.mark.parametrize("place", [0, 16383, 16384, 39999])
@pytest.mark.parametrize("wrong", [-1, 1 << 31, 2.5, True])
def test_long_lists_of_ids(place: int, wrong: Any) -> None:
    """They are checked in parts; the message has the place in the whole."""
    ids = [7] * 40000
    assert token_ids("prompt", ids) is ids
    check_ids("prompt", ids, 8)
    ids[place] = wrong
    with pytest.raises(ArgumentError, match=f"got {wrong} at {place}$"):
        token_ids("prompt", ids)
    ids[place] = 8
    with pytest.raises(ArgumentError, match="below 8, got 8"):
        check_ids("prompt", ids, 8)
