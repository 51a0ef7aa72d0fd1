"""``lm.openai`` with tools: choices that are enforced, every format, reasoning; streams add up to whole answers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import pyml_nlp
from pyml_nlp import ArgumentError, LanguageModel
from pyml_nlp.answer.adapting import with_short_ids
from pyml_nlp.openai.chat_plan import chat_plan
from pyml_nlp.openai.requests import chat_request

pytest.importorskip("llguidance")
jsonschema = pytest.importorskip("jsonschema")

BODY = "{% for m in messages %}[{{ m.role }}]{{ m.content + ';' }}{% endfor %}[assistant]"
SIGNS = {
    "hermes": "<tool_call>",
    "qwen3_coder": "<tool_call><parameter=",
    "mistral": "[TOOL_CALLS]",
    "functiongemma": "<start_function_call>",
    "phi4_mini": "functools[",
    "pythonic": "func_name1(",
    "llama": '"parameters": dictionary of argument name',
}
DIGIT = {"type": "integer", "minimum": 0, "maximum": 9}
ADD = {
    "type": "object",
    "properties": {"a": DIGIT, "b": DIGIT},
    "required": ["a", "b"],
    "additionalProperties": False,
}
NOTE = {
    "type": "object",
    "properties": {"text": {"type": "string", "maxLength": 6}, "sure": {"type": "boolean"}},
    "required": ["text", "sure"],
    "additionalProperties": False,
}
SCHEMAS = {"add": ADD, "note": NOTE}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": schema, "strict": True}}
    for name, schema in SCHEMAS.items()
]


def copied(source: Path, target: Path) -> None:
    """Copy a model, for longer texts."""
    shutil.copytree(source, target)
    config = json.loads((target / "config.json").read_text())
    config["max_position_embeddings"] = 2048
    (target / "config.json").write_text(json.dumps(config))


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


def accumulated(chunks: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The choices of a stream, put together by the rules of OpenAI's clients."""
    found: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            one = found.setdefault(choice["index"], {"message": {}, "finish_reason": None, "logprobs": []})
            assert one["finish_reason"] is None
            one["finish_reason"] = choice["finish_reason"]
            one["logprobs"] += (choice["logprobs"] or {}).get("content", ())
            delta = dict(choice["delta"])
            calls = one["message"].setdefault("tool_calls", [])
            for call in delta.pop("tool_calls", ()):
                if call["index"] == len(calls):
                    assert call["function"]["arguments"] == ""
                    assert call["type"] == "function"
                    assert call["function"]["name"]
                    calls.append({"id": call["id"], "type": "function", "function": dict(call["function"])})
                else:
                    assert set(call) == {"index", "function"}
                    assert set(call["function"]) == {"arguments"}
                    assert call["function"]["arguments"]
                    calls[call["index"]]["function"]["arguments"] += call["function"]["arguments"]
            for key, text in delta.items():
                one["message"][key] = one["message"].get(key, "") + text
    return [found[index] for index in sorted(found)]


def functions(message: dict[str, Any]) -> list[tuple[str, str]]:
    calls = message.get("tool_calls") or []
    return [(call["function"]["name"], call["function"]["arguments"]) for call in calls]


def check(choice: dict[str, Any]) -> None:
    for name, arguments in functions(choice["message"]):
        jsonschema.validate(json.loads(arguments), SCHEMAS[name])


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


# ---- reasoning


@pytest.fixture(scope="module")
def thinker(tiny_dirs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[LanguageModel]:
    """A model whose template opens reasoning, unless it is told not to."""
    folder = tmp_path_factory.mktemp("thinker") / "model"
    copied(tiny_dirs["llama"], folder)
    ending = "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% else %}<think>{% endif %}"
    (folder / "chat_template.jinja").write_text(f"{{{{ tools }}}}{{#- <tool_call> </think> -#}}{BODY}{ending}")
    with pyml_nlp.load(folder, threads=1) as loaded:
        yield loaded


REASONED = {"regex": "Hm[.] [a-d]{8}</think>\\n\\nIt is [0-9]{3}[.]"}


def test_reasoning_of_a_schema(thinker: LanguageModel) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["yes", "no"]}}}
    fields: dict[str, Any] = {"messages": "Hi", "response_format": form, "max_tokens": 4000, "temperature": 2}
    fields["logit_bias"] = {str(thinker.tokenizer.encode("<", add_special=False)[-1]): 8}
    seen = 0
    for seed in range(6):
        answer = thinker.openai.chat(fields, seed=seed, max_tokens=300)
        (choice,) = answer["choices"]
        counted = answer["usage"]["completion_tokens_details"]["reasoning_tokens"]
        (one,) = accumulated(thinker.openai.chat(fields, seed=seed, max_tokens=300, stream=True))
        for key in ("content", "reasoning_content"):
            assert one["message"].get(key) == choice["message"].get(key)
        assert counted > 0
        if choice["finish_reason"] == "stop":
            assert choice["message"]["content"] in ('"yes"', '"no"')
            seen += 1
        else:
            assert choice["message"]["content"] == ""
            assert counted == answer["usage"]["completion_tokens"]
    assert seen < 7


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
    fields: dict[str, Any] = {"messages": "Hi", "tools": TOOLS, "tool_choice": "required", "max_tokens": 300, "seed": 4}
    (choice,) = thinker.openai.chat(fields, reasoning_effort="none", parallel_tool_calls=False)["choices"]
    assert len(functions(choice["message"])) == 1 or choice["message"].get("reasoning_content")


# ---- markers that are tokens

THINK = ("<think>", "</think>")
LATE = {
    "hermes": ("<tool_call>", "</tool_call>"),
    "qwen3_coder": ("<tool_call>", "</tool_call>"),
    "mistral": ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"),
    "functiongemma": ("<start_function_call>", "<end_function_call>", "<escape>"),
    "phi4_mini": ("<|tool_call|>", "<|/tool_call|>"),
    "pythonic": ("<|tool_call_start|>", "<|tool_call_end|>"),
}


def with_tokens(source: Path, target: Path, markers: Sequence[str], special: bool) -> None:
    """Copy a model whose last words become markers."""
    copied(source, target)
    for name in ("vocab.json", "merges.txt"):
        (target / name).unlink()
    found = json.loads((target / "tokenizer.json").read_text())
    vocab, first = found["model"]["vocab"], len(found["model"]["vocab"]) - len(markers)
    gone = {word for word, number in vocab.items() if number >= first}
    found["model"]["vocab"] = {word: number for word, number in vocab.items() if number < first}
    merges = [one if isinstance(one, list) else one.split(" ") for one in found["model"]["merges"]]
    found["model"]["merges"] = [pair for pair in merges if not gone & {*pair, "".join(pair)}]
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": special}
    found["added_tokens"] += [{"id": first + n, "content": text, **plain} for n, text in enumerate(markers)]
    (target / "tokenizer.json").write_text(json.dumps(found))


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
