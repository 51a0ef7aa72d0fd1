"""``lm.openai`` with tools: choices that are enforced, every format, messages; streams add up to whole answers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pyml_nlp
from pyml_nlp import ArgumentError, ChatTemplateError, LanguageModel
from pyml_nlp.answer.adapting import with_short_ids
from pyml_nlp.openai.chat_plan import chat_plan
from pyml_nlp.openai.requests import chat_request
from tests.helpers.tool_calls import BODY, SIGNS, TOOLS, accumulated, check, copied, functions

pytest.importorskip("llguidance")


@pytest.fixture(scope="module")
def models(tiny_dirs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, LanguageModel]]:
    """A model of each format."""
    folder = tmp_path_factory.mktemp("tools")
    loaded = {}
    for name, sign in [*SIGNS.items(), ("generic", "")]:
        copied(tiny_dirs["llama"], folder / name)
        tools = f"{{{{ tools }}}}{{#- {sign} -#}}" if sign else ""
        (folder / name / "chat_template.jinja").write_text(tools + BODY)
        loaded[name] = pyml_nlp.load(folder / name, threads=1)
    yield loaded
    for lm in loaded.values():
        lm.close()


@pytest.mark.parametrize("form", [*SIGNS, "generic"])
def test_required_calls(models: dict[str, LanguageModel], form: str) -> None:
    fields: dict[str, Any] = {
        "messages": "Hi", "tools": TOOLS, "tool_choice": "required", "max_tokens": 400, "seed": 2, "n": 2,
        "parallel_tool_calls": False, "logprobs": True,
    }  # fmt: skip
    whole = models[form].openai.chat(fields)["choices"]
    streamed = accumulated(models[form].openai.chat(fields, stream=True))
    for one, choice in zip(streamed, whole, strict=True):
        assert choice["finish_reason"] == one["finish_reason"] == "tool_calls"
        assert choice["message"]["content"] is None
        assert one["message"]["content"] == ""
        assert len(functions(choice["message"])) == 1
        check(choice)
        assert functions(one["message"]) == functions(choice["message"])
        assert one["logprobs"] == choice["logprobs"]["content"]


@pytest.mark.parametrize("form", [*SIGNS, "generic"])
def test_a_named_tool(models: dict[str, LanguageModel], form: str) -> None:
    wanted = {"type": "function", "function": {"name": "note"}}
    fields: dict[str, Any] = {"messages": "Hi", "tools": TOOLS, "tool_choice": wanted, "max_tokens": 400}
    (choice,) = models[form].openai.chat(fields, seed=3)["choices"]
    assert [name for name, _ in functions(choice["message"])] == ["note"]
    check(choice)


def test_allowed_tools(models: dict[str, LanguageModel]) -> None:
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "add"}}]}
    fields: dict[str, Any] = {"messages": "Hi", "tools": TOOLS, "max_tokens": 600, "seed": 1}
    fields["tool_choice"] = {"type": "allowed_tools", "allowed_tools": allowed}
    (choice,) = models["hermes"].openai.chat(fields)["choices"]
    assert {name for name, _ in functions(choice["message"])} == {"add"}


def test_tools_without_a_place_in_the_template(models: dict[str, LanguageModel]) -> None:
    """A message describes them, and the answer is a call or a text."""
    found = set()
    for seed in range(12):
        fields: dict[str, Any] = {"messages": "Hi", "tools": TOOLS, "max_tokens": 500, "seed": seed, "temperature": 2}
        (choice,) = models["generic"].openai.chat(fields)["choices"]
        (one,) = accumulated(models["generic"].openai.chat(fields, stream=True))
        assert functions(one["message"]) == functions(choice["message"])
        assert one["message"]["content"] == (choice["message"]["content"] or "")
        if choice["finish_reason"] == "tool_calls":
            check(choice)
        assert not (choice["message"]["content"] or "").startswith("{")
        found.add("tool_calls" in choice["message"])
    assert found == {True, False}


def test_the_prompt_of_the_generic_format(models: dict[str, LanguageModel]) -> None:
    lm = models["generic"]
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}}
    messages = [
        {"role": "user", "content": "Add."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "3"},
        {"role": "user", "content": "Thanks."},
    ]
    body = {"messages": messages, "tools": TOOLS}
    plan = chat_plan(lm, chat_request(body, lm.generation_options, 10))
    text = lm.tokenizer.decode(plan.ids)
    turns = text.split(";[")
    assert [turn.partition("]")[0].removeprefix("[") for turn in turns] == ["user", "assistant", "user", "assistant"]
    assert turns[0].startswith("[user]Add.\n\nThese tools can be called:\n" + json.dumps(TOOLS[0]["function"]))
    assert turns[1] == 'assistant]{"tool_calls": [{"name": "add", "arguments": {"a": 1, "b": 2}}]}'
    assert turns[2] == "user]Result of add: 3\nThanks."
    assert plan.common.options.grammar is not None


def test_a_response_format_and_tools(models: dict[str, LanguageModel]) -> None:
    """The answer is calls, or matches the schema."""
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["yes", "no"]}}}
    fields: dict[str, Any] = {"messages": "Hi", "tools": TOOLS, "response_format": form, "max_tokens": 400}
    fields["parallel_tool_calls"] = False
    found = set()
    for seed in range(16):
        (choice,) = models["hermes"].openai.chat(fields, seed=seed, temperature=2)["choices"]
        check(choice)
        found.add(choice["message"]["content"])
    assert found <= {None, '"yes"', '"no"'}
    assert len(found) > 1


def test_a_format_by_name(models: dict[str, LanguageModel]) -> None:
    lm = models["hermes"]
    request = chat_request({"messages": "Hi", "tools": TOOLS}, lm.generation_options, 10)
    plan = chat_plan(lm, request, tool_format="llama")
    assert plan.format is not None
    assert plan.format.tool_format is not None
    assert plan.format.tool_format.name == "llama"
    with pytest.raises(ArgumentError, match=r"^tool_format must be one of hermes, .*, got 'x'$"):
        chat_plan(lm, request, tool_format="x")


def test_messages_that_a_template_does_not_know(models: dict[str, LanguageModel]) -> None:
    """Calls and results of an earlier model, and the role ``developer``, for a template without tools."""
    lm = models["generic"]
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "3"}]},
    ]
    plan = chat_plan(lm, chat_request({"messages": messages}, lm.generation_options, 10))
    expected = '[system]Be brief.;[assistant]{"tool_calls": [{"name": "add", "arguments": {}}]};[user]Result of add: 3;'
    assert lm.tokenizer.decode(plan.ids) == expected + "[assistant]"


def test_ids_of_calls_for_mistral() -> None:
    calls = [{"id": "call_abc", "type": "function", "function": {"name": "add"}}, {"id": "123456789"}, "x"]
    messages = [{"role": "assistant", "tool_calls": calls}, {"role": "tool", "tool_call_id": "call_abc"}, 5]
    first, second, _ = with_short_ids(messages)
    number = first["tool_calls"][0]["id"]
    assert (len(number), number.isalnum(), second["tool_call_id"]) == (9, True, number)
    assert first["tool_calls"][1:] == calls[1:]
    assert with_short_ids("Hi") == "Hi"


def test_a_template_that_refuses_system_messages(tiny_dirs: dict[str, Path], tmp_path: Path) -> None:
    """The message of the user describes the tools there."""
    copied(tiny_dirs["llama"], tmp_path / "model")
    refusal = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    (tmp_path / "model" / "chat_template.jinja").write_text(refusal + BODY)
    with pyml_nlp.load(tmp_path / "model", threads=1) as lm:
        plan = chat_plan(lm, chat_request({"messages": "Hi", "tools": TOOLS}, lm.generation_options, 10))
        assert lm.tokenizer.decode(plan.ids).startswith("[user]Hi\n\nThese tools can be called:\n")
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
        plan = chat_plan(lm, chat_request({"messages": messages, "tools": TOOLS}, lm.generation_options, 10))
        assert lm.tokenizer.decode(plan.ids).startswith("[user]Hi\n\nBe brief.\n\nThese tools can be called:\n")
        with pytest.raises(ChatTemplateError, match="System role not supported"):
            chat_plan(lm, chat_request({"messages": messages}, lm.generation_options, 10))


TEMPLATES = Path(__file__).parent / "chat" / "templates"
PUBLIC = {
    "gemma3": "generic", "llama3_1": "llama", "llama3_2": "llama", "mistral": "mistral", "phi3": "generic",
    "qwen2_5": "hermes", "qwen3": "hermes", "smollm2": "generic",
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLIC)
def test_public_templates(tiny_dirs: dict[str, Path], tmp_path: Path, name: str) -> None:
    """A conversation with calls and results, of a client that knows nothing about the model."""
    copied(tiny_dirs["llama"], tmp_path / "model")
    shutil.copy(TEMPLATES / f"{name}.jinja", tmp_path / "model" / "chat_template.jinja")
    call = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}}
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "One and two?"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "It is 3."},
    ]
    with pyml_nlp.load(tmp_path / "model", threads=1) as lm:
        for given in (messages, messages[1:], messages[:2], messages[1:2]):
            plan = chat_plan(lm, chat_request({"messages": given, "tools": TOOLS}, lm.generation_options, 10))
            assert plan.format is not None
            assert plan.format.tool_format is not None
            assert plan.format.tool_format.name == PUBLIC[name]
            text = lm.tokenizer.decode(plan.ids)
            assert '"add"' in text
            assert "One and two?" in text
            assert ("It is 3." in text) == (len(given) > 2)
        without = chat_plan(lm, chat_request({"messages": messages}, lm.generation_options, 10))
        assert "It is 3." in lm.tokenizer.decode(without.ids)
