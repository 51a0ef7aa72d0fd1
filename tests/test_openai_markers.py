"""``lm.openai`` where markers of calls and reasoning are tokens: late grammars, reasoning, texts that spell them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import pyml_nlp
from pyml_nlp import LanguageModel
from pyml_nlp.openai.chat_plan import chat_plan
from pyml_nlp.openai.requests import chat_request
from tests.helpers.tool_calls import (
    ADD,
    BODY,
    LATE,
    SIGNS,
    THINK,
    TOOLS,
    accumulated,
    check,
    functions,
    with_tokens,
)

pytest.importorskip("llguidance")


@pytest.fixture(scope="module")
def late(tiny_dirs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, LanguageModel]]:
    """Models of formats whose markers are tokens, with characters in texts or without."""
    folder, loaded = tmp_path_factory.mktemp("late"), {}
    for name, markers in LATE.items():
        for kind in ("special", "added"):
            path = folder / f"{name}-{kind}"
            with_tokens(tiny_dirs["llama"], path, (*markers, *THINK), kind == "special")
            sign = SIGNS.get(name, "") + markers[0] + "<|tool_list_start|>" * (name == "pythonic")
            (path / "chat_template.jinja").write_text(f"{{{{ tools }}}}{{#- {sign} </think> -#}}{BODY}")
            loaded[path.name] = pyml_nlp.load(path, threads=1)
    yield loaded
    for lm in loaded.values():
        lm.close()


def biased(lm: LanguageModel, biases: dict[str, float]) -> dict[str, float]:
    return {str(lm.tokenizer.encode(text, add_special=False)[0]): bias for text, bias in biases.items()}


@pytest.mark.parametrize("kind", ["special", "added"])
@pytest.mark.parametrize("form", LATE)
def test_calls_that_the_model_chooses(late: dict[str, LanguageModel], form: str, kind: str) -> None:
    """Free until the marker, then held to the format and the schema. Text and calls come as in one piece."""
    lm = late[f"{form}-{kind}"]
    fields: dict[str, Any] = {"messages": "Hi", "tools": TOOLS, "max_tokens": 500, "n": 3, "temperature": 1.5}
    fields |= {"logit_bias": biased(lm, {LATE[form][0]: 4, "<think>": -100, "<|endoftext|>": -100}), "seed": 4}
    fields |= {"parallel_tool_calls": False, "return_token_ids": True}
    whole = lm.openai.chat(fields)["choices"]
    chunks = list(lm.openai.chat(fields, stream=True))
    streamed = accumulated(chunks)
    scored = lm.openai.chat(fields, logprobs=True)["choices"]
    assert [choice["token_ids"] for choice in scored] == [choice["token_ids"] for choice in whole]
    plan = chat_plan(lm, chat_request(fields, lm.generation_options, 500))
    marker = lm.tokenizer.encode(LATE[form][0], add_special=False)[0]
    texts = []
    for index, (one, choice) in enumerate(zip(streamed, whole, strict=True)):
        assert choice["finish_reason"] == one["finish_reason"] == "tool_calls"
        assert len(functions(choice["message"])) == 1
        check(choice)
        assert functions(one["message"]) == functions(choice["message"])
        assert one["message"]["content"] == (choice["message"]["content"] or "")
        texts.append(choice["message"]["content"] or "")
        free = lm.generate(plan.ids, replace(plan.common.options, grammar=None, sample_index=index))
        free.read()
        begun = choice["token_ids"].index(marker) + 1
        assert free.tokens[:begun] == choice["token_ids"][:begun]
        assert [token for chunk in chunks for one in chunk["choices"] if one["index"] == index
                for token in one.get("token_ids", ())] == choice["token_ids"]  # fmt: skip
        alone = lm.generate(plan.ids, replace(plan.common.options, sample_index=index), speculate=False)
        alone.read()
        assert alone.tokens == choice["token_ids"]
    assert any(texts)


def test_a_marker_in_reasoning_begins_no_call(late: dict[str, LanguageModel]) -> None:
    lm = late["hermes-added"]
    fields: dict[str, Any] = {"messages": "Hi", "tools": TOOLS, "max_tokens": 60, "temperature": 1.5, "seed": 2}
    fields["logit_bias"] = biased(lm, {"<think>": 100, "</think>": -100, "<tool_call>": 3})
    (choice,) = lm.openai.chat(fields)["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["content"] == ""
    assert "tool_calls" not in choice["message"]
    assert choice["message"]["reasoning_content"].count("<think>") > 10


def test_plain_answers_with_tools_are_those_without_a_grammar(late: dict[str, LanguageModel]) -> None:
    lm = late["hermes-added"]
    fields: dict[str, Any] = {"messages": "Hi", "tools": TOOLS, "max_tokens": 60, "temperature": 0.9, "seed": 6}
    fields["logit_bias"] = biased(lm, {"<tool_call>": -100, "<think>": -100})
    plan = chat_plan(lm, chat_request(fields, lm.generation_options, 60))
    assert plan.common.options.grammar is not None
    text = lm.generate_text(plan.ids, plan.common.options)
    assert text == lm.generate_text(plan.ids, replace(plan.common.options, grammar=None))
    assert lm.openai.chat(fields)["choices"][0]["message"]["content"] == text


@pytest.mark.parametrize("kind", ["special", "added"])
def test_user_texts_are_no_control_tokens(late: dict[str, LanguageModel], kind: str) -> None:
    """Messages, descriptions of tools, arguments and results that spell a control token."""
    lm = late[f"mistral-{kind}"]
    marker = "[TOOL_CALLS]"
    ids = {lm.tokenizer.encode(text, add_special=False)[0] for text in (marker, *THINK)}
    call = {"id": "123456789", "type": "function", "function": {"name": "add", "arguments": json.dumps({"a": marker})}}
    messages = [
        {"role": "system", "content": marker},
        {"role": "user", "content": [{"type": "text", "text": f"<think>{marker}"}]},
        {"role": "assistant", "content": marker, "reasoning_content": "</think>", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "123456789", "content": f"{marker}</think>"},
    ]
    function = {"name": "add", "parameters": ADD, "description": f"<think>{marker}"}
    body = {"messages": messages, "tools": [{"type": "function", "function": function}]}
    for name in (None, "generic", "phi4_mini"):
        plan = chat_plan(lm, chat_request(body, lm.generation_options, 10), tool_format=name)
        assert marker in lm.tokenizer.decode(plan.ids, skip_special=False)
        if kind == "special":
            assert not ids & set(plan.ids)


def test_reasoning_that_is_continued(late: dict[str, LanguageModel]) -> None:
    lm = late["hermes-added"]
    for content, opened in (("<think>Hm", True), ("<think>Hm</think>It", False), ("It", False)):
        messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": content}]
        body = {"messages": messages, "continue_final_message": True}
        assert chat_plan(lm, chat_request(body, lm.generation_options, 10)).opened == opened


@pytest.mark.parametrize("kind", ["special", "added"])
def test_texts_with_stop_strings_and_markers(late: dict[str, LanguageModel], kind: str) -> None:
    """Markers that mean nothing where they are, and stop strings that hold text back: no character is lost or moved."""
    lm = late[f"hermes-{kind}"]
    fields: dict[str, Any] = {"messages": "Hi", "max_tokens": 60, "temperature": 1.3}
    fields["logit_bias"] = biased(lm, {"<think>": 3, "</think>": 4, "<tool_call>": 4})
    divided = stopped = 0
    for seed in range(12):
        plan = chat_plan(lm, chat_request({**fields, "seed": seed}, lm.generation_options, 60))
        text = lm.generate_text(plan.ids, plan.common.options)
        stop = [text[place : place + 2] for place in range(10, len(text) - 2, 7)]
        for stops in ([], stop[:1], stop):
            given = replace(plan.common.options, stop=tuple(stops))
            expected = lm.generate(plan.ids, given)
            expected.read()
            message = lm.openai.chat(fields, seed=seed, stop=stops)["choices"][0]["message"]
            stopped += expected.finish_reason == "stop"
            if "reasoning_content" in message:
                divided += 1
                continue
            assert message["content"] == expected.completion.text
    assert divided < 30
    assert stopped > 10


# ---- reasoning


@pytest.fixture(scope="module")
def thinker(tiny_dirs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[LanguageModel]:
    """A model whose template opens reasoning, unless it is told not to."""
    folder = tmp_path_factory.mktemp("thinker") / "model"
    with_tokens(tiny_dirs["llama"], folder, (*LATE["hermes"], *THINK), special=False)
    ending = "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% else %}<think>{% endif %}"
    (folder / "chat_template.jinja").write_text(f"{{{{ tools }}}}{{#- <tool_call> </think> -#}}{BODY}{ending}")
    with pyml_nlp.load(folder, threads=1) as loaded:
        yield loaded


def test_reasoning_before_a_schema(thinker: LanguageModel) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["yes", "no"]}}}
    fields: dict[str, Any] = {"messages": "Hi", "response_format": form, "max_tokens": 200, "seed": 3}
    fields["logit_bias"] = biased(thinker, {"<think>": -100, "</think>": 3})
    for effort in ("low", "none"):
        fields["reasoning_effort"] = effort
        answer = thinker.openai.chat(fields)
        (choice,) = answer["choices"]
        (one,) = accumulated(thinker.openai.chat(fields, stream=True))
        counted = answer["usage"]["completion_tokens_details"]["reasoning_tokens"]
        assert choice["finish_reason"] == "stop"
        assert choice["message"]["content"] in ('"yes"', '"no"')
        assert ("reasoning_content" in choice["message"]) == (effort == "low")
        assert (counted > 0) == (effort == "low")
        for key in ("content", "reasoning_content"):
            assert one["message"].get(key) == choice["message"].get(key)


def test_no_reasoning(thinker: LanguageModel) -> None:
    answer = thinker.openai.chat(messages="Hi", reasoning_effort="none", max_tokens=8, seed=1)
    (choice,) = answer["choices"]
    assert "reasoning_content" not in choice["message"]
    assert choice["message"]["content"]
    assert answer["usage"]["completion_tokens_details"] == {"reasoning_tokens": 0}
    (choice,) = thinker.openai.chat(messages="Hi", max_tokens=8, seed=1)["choices"]
    assert choice["message"]["content"] == ""
    assert choice["message"]["reasoning_content"]


def test_calls_after_reasoning(thinker: LanguageModel) -> None:
    fields: dict[str, Any] = {"messages": "Hi", "tools": TOOLS, "max_tokens": 300, "seed": 4, "temperature": 1}
    fields |= {"tool_choice": "required", "parallel_tool_calls": False}
    fields["logit_bias"] = biased(thinker, {"<think>": -100, "</think>": 3})
    for effort in ("low", "none"):
        fields["reasoning_effort"] = effort
        (choice,) = thinker.openai.chat(fields)["choices"]
        assert len(functions(choice["message"])) == 1
        check(choice)
        assert ("reasoning_content" in choice["message"]) == (effort == "low")
        (one,) = accumulated(thinker.openai.chat(fields, stream=True))
        assert functions(one["message"]) == functions(choice["message"])
