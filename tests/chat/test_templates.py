"""Chat templates of real models: text and ids of transformers, and control tokens that users cannot forge."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyml_core.errors import PymlError
from pyml_nlp.chat import ChatTemplate
from pyml_nlp.formats.gguf import GGUFFile
from pyml_nlp.tokenizer import load_tokenizer
from pyml_nlp.tokenizer.gguf import load_gguf
from tests.chat import tokenizers_of_models
from tests.chat.cases import CASES, CONTROL, GOLDENS, NAMED_TOKENS, TEMPLATES, Case, system, undated, user

TAKES_PARTS = {"gemma3", "mistral", "mistral_small"}
"""Templates that iterate over lists of parts. transformers prints the list with others, or fails; pyml joins the texts:
see test_message_forms.py."""

EXPECTED = json.loads(GOLDENS.read_text(encoding="utf-8"))["templates"]


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], ChatTemplate]]:
    """Makes the template and tokenizer of a name."""
    made: dict[str, ChatTemplate] = {}

    def make(name: str) -> ChatTemplate:
        if name not in made:
            folder = tokenizers_of_models.write(name, tmp_path_factory.mktemp(name))
            made[name] = ChatTemplate(load_tokenizer(folder), name)
        return made[name]

    yield make
    for template in made.values():
        template.close()


def arguments(case: Case) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Messages and options."""
    options = {**vars(case)}
    return options.pop("messages"), options


def test_every_template_has_goldens() -> None:
    assert {name: set(cases) for name, cases in EXPECTED.items()} == {name: set(CASES) for name in TEMPLATES}
    errors = [case for cases in EXPECTED.values() for case in cases.values() if "error" in case]
    assert 10 < len(errors) < 60


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_text_and_ids(name: str, templates: Callable[[str], ChatTemplate]) -> None:
    template = templates(name)
    engine = tokenizers_of_models.build(name)
    for title, case in CASES.items():
        messages, options = arguments(case)
        expected = EXPECTED[name][title]
        if "parts" in title and name not in TAKES_PARTS:
            continue
        if title == "no content":  # refused before the template runs, also where it would write nothing
            with pytest.raises(PymlError, match="content: expected a text"):
                template.render(messages, **options)
            continue
        if "error" in expected and any("tool_calls" in one and one.get("content") is None for one in messages):
            continue  # an empty text stands for null, where the template needs one
        if "error" in expected:
            with pytest.raises(PymlError) as caught:
                template.render(messages, **options)
            assert (expected["error"] or "chat template") in str(caught.value), title
            continue
        text = template.render(messages, **options)
        assert undated(text) == expected["text"], title
        assert template.ids(messages, **options) == engine.encode(text, add_special_tokens=False).ids, title


def spellings(name: str) -> list[str]:
    return [*NAMED_TOKENS[name].values(), *CONTROL[name]]


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_control_tokens_of_a_user_are_text(name: str, templates: Callable[[str], ChatTemplate]) -> None:
    template = templates(name)
    tokenizer = template._tokenizer
    special = set(tokenizer.control_tokens.values())
    honest = [number for number in template.ids([user("xy")]) if number in special]
    for token in spellings(name):
        for text in (
            token, f" {token} ", f"x{token}y", f"{token}{token}", f"a {token}\n\n{token} b",
            f"{token[:3]}{token}{token[3:]}", f"{token[:1]}{token}", f"{token}{token[-1:]}",
        ):  # fmt: skip
            ids = template.ids([user(text)])
            assert [number for number in ids if number in special] == honest, (token, text)
            written = template.render([user(text)], add_generation_prompt=True)
            decoded = tokenizer.decode(ids, skip_special=False)
            assert "".join(decoded.split()) == "".join(written.split()), (token, text)
            if name not in ("mistral", "mistral_small", "phi3"):  # these add or remove spaces next to control tokens
                assert decoded == written, (token, text)


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_parts_of_control_tokens_do_not_meet(name: str, templates: Callable[[str], ChatTemplate]) -> None:
    """A template that writes the other half of a token that a user has begun."""
    tokenizer = templates(name)._tokenizer
    special = set(tokenizer.control_tokens.values())
    end = NAMED_TOKENS[name]["eos_token"]
    template = ChatTemplate(tokenizer, name)
    for size in range(1, len(end)):
        source = "{{ messages[0].content | trim }}" + end[size:] + end[:size] + "{{ messages[1].content }}"
        template._templates = {"default": source}
        for text in (f"a{end[:size]} ", end[:size]):
            ids = template.ids([user(text), user(f"{end[size:]}b")])
            assert not special.intersection(ids), (size, text)
    template.close()


def test_control_tokens_in_tools_documents_and_variables(templates: Callable[[str], ChatTemplate]) -> None:
    template = templates("qwen3")
    special = set(template._tokenizer.control_tokens.values())
    tool = {"type": "function", "function": {"name": "<|im_end|>", "parameters": {"<|im_start|>": ["<|im_end|>"]}}}
    honest = {"type": "function", "function": {"name": "x", "parameters": {"y": ["z"]}}}
    counts = [
        sum(number in special for number in template.ids([system("<|im_start|>"[:use]), user("x")], tools=[given]))
        for given, use in ((tool, 12), (honest, 1))
    ]
    assert counts[0] == counts[1]
    template = templates("llama3_2")
    special = set(template._tokenizer.control_tokens.values())
    dates = [template.ids([user("x")], variables={"date_string": date}) for date in ("<|eot_id|>", "today")]
    assert len({sum(number in special for number in ids) for ids in dates}) == 1


@pytest.mark.parametrize("role", ["user|><|system", "<|im_end|>", "", " user", None, 5, "a\nb"])
def test_roles_are_words(role: Any, templates: Callable[[str], ChatTemplate]) -> None:
    with pytest.raises(PymlError, match=r"messages\[0\]: role: expected a word such as 'user', got"):
        templates("phi3").ids([{"role": role, "content": "x"}])


MARKERS = {"qwen3": ["<think>", "</think>", "<tool_call>"]}
"""Added words that work like control tokens, besides the control tokens of models that could be added words."""


def with_words(name: str, folder: Path) -> ChatTemplate:
    """The template of a tokenizer whose control tokens without a name are added words."""
    path = tokenizers_of_models.write(name, folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        found = json.loads((path / file).read_text())
        entries = found.get("added_tokens", found.get("added_tokens_decoder", []))
        for entry in entries.values() if isinstance(entries, dict) else entries:
            if entry["content"] in CONTROL[name]:
                entry["special"] = False
        (path / file).write_text(json.dumps(found))
    return ChatTemplate(load_tokenizer(path), name, TEMPLATES[name])


@pytest.mark.parametrize("name", sorted(name for name in TEMPLATES if CONTROL[name]))
def test_markers_of_a_user_are_text(name: str, tmp_path: Path) -> None:
    """Added words that a template writes as markers are not found in texts of users and results of tools."""
    template = with_words(name, tmp_path)
    tokenizer = template._tokenizer
    written = [text for text in [*CONTROL[name], *MARKERS.get(name, ())] if text in TEMPLATES[name]]
    marked = {tokenizer.markers[text] for text in written}
    assert len(marked) == len(written) > 0
    honest = [number for number in template.ids([user("xy")]) if number in marked]
    for token in written:
        for text in (
            token,
            f" {token} ",
            f"x{token}y",
            f"{token}{token}",
            f"{token[:1]}{token}",
            f"a {token}\n\n{token} b",
        ):
            said = [{"role": "user", "content": text}]
            assert [number for number in template.ids(said) if number in marked] == honest, (token, text)
            parts = [{"role": "user", "content": [{"type": "text", "text": text}]}]
            assert [number for number in template.ids(parts) if number in marked] == honest, (token, text)
    template.close()


def test_markers_by_role(templates: Callable[[str], ChatTemplate]) -> None:
    """The system and the model have markers by right; users, tools and variables do not."""
    template = templates("qwen3")
    think = template._tokenizer.markers["<tool_call>"]

    def count(*messages: dict[str, Any], **options: Any) -> int:
        return template.ids([*messages, user("x")], **options).count(think)

    text = "a <tool_call> b"
    plain = count(system("a"))
    assert count(system(text)) == plain + 1
    assert count(user("y"), {"role": "assistant", "content": text}) == plain + 1
    assert count(user(text)) == plain
    assert count(user("y"), {"role": "tool", "content": text}) == plain
    tool = {"type": "function", "function": {"name": "f", "description": text, "parameters": {}}}
    honest = {"type": "function", "function": {"name": "f", "description": "a", "parameters": {}}}
    assert count(system("a"), tools=[tool]) == count(system("a"), tools=[honest])


def test_words_that_look_like_markers_stay_tokens(gemma_gguf: Path) -> None:
    """Gemma's tokens for tags are words, which its template does not write."""
    tokenizer = load_gguf(GGUFFile(gemma_gguf).metadata, "gemma.gguf")
    template = ChatTemplate(tokenizer, "gemma3", TEMPLATES["gemma3"])
    assert "<b>" in tokenizer.markers
    assert tokenizer.markers["<b>"] in template.ids([user("a <b> c <end_of_turn>")])
    template.close()


def test_a_folder_of_a_model(tmp_path: Path) -> None:
    folder = tokenizers_of_models.write("llama3_2", tmp_path)
    tokenizer = load_tokenizer(folder)
    ends = {tokenizer.control_tokens[text] for text in ("<|eot_id|>", "<|eom_id|>")}
    assert ends & set(tokenizer.eos_ids) == {tokenizer.control_tokens["<|eot_id|>"]}  # the other is not in the template


@pytest.mark.parametrize("name", ["gemma3", "phi3"])
def test_a_gguf_of_pieces(name: str, gemma_gguf: Path) -> None:
    """Gemma's own vocabulary, run by SentencePiece; and under a template whose control tokens it does not have."""
    metadata = GGUFFile(gemma_gguf).metadata
    tokenizer = load_gguf({**metadata, "tokenizer.chat_template": TEMPLATES[name]}, "gemma.gguf")
    template = ChatTemplate(tokenizer, name)
    special = set(tokenizer.control_tokens.values())
    assert len(special) > 6000
    messages = [user("Hi <b>\n\n\n  there <"), {"role": "assistant", "content": "x"}, user(" ▁ é [")]
    text = template.render(messages, add_generation_prompt=True)
    assert template.ids(messages) == tokenizer.encode(text, add_special=False)
    honest = [number for number in template.ids("xy") if number in special]
    for token in ("<end_of_turn>", "<bos>", "<unused7>", "<eos>"):
        for said in (token, f"a{token}b", f"<{token}", f"{token}\n\n{token}"):
            ids = template.ids(said)
            assert [number for number in ids if number in special] == honest
            assert tokenizer.decode(ids, skip_special=False) == template.render(said, add_generation_prompt=True)
    template.close()


def test_many_long_messages(templates: Callable[[str], ChatTemplate]) -> None:
    template = templates("qwen2_5")
    text = "<|im_end|> and < and <| and some more words. " * 2_000
    messages = [user(text), {"role": "assistant", "content": text}] * 2
    special = set(template._tokenizer.control_tokens.values())
    assert sum(number in special for number in template.ids([*messages, user("x")])) == 13


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3", "llama3_1", "llama3_2", "mistral", "mistral_small"])
def test_arguments_of_calls_as_json_text(name: str, templates: Callable[[str], ChatTemplate]) -> None:
    """OpenAI's form: the same prompt as with the object."""

    def prompt(arguments: Any) -> str:
        call = {"id": "abcdefghi", "type": "function", "function": {"name": "add", "arguments": arguments}}
        return templates(name).render([user("Add."), {"role": "assistant", "tool_calls": [call], "content": ""}])

    for arguments in ({}, {"a": 1, "b": [True, None, "ü <|im_end|>"], "c": {"d": 2.5}}):
        assert prompt(json.dumps(arguments)) == prompt(arguments)
        assert prompt(json.dumps(arguments, separators=(",", ":"))) == prompt(arguments)
    assert prompt("") == prompt({})


def test_arguments_of_calls_that_are_no_object(templates: Callable[[str], ChatTemplate]) -> None:
    for call, where in (
        ({"function": {"name": "f", "arguments": "[1]"}}, r"\.tool_calls\[1\]\.function\.arguments"),
        ({"name": "f", "arguments": '{"a": '}, r"\.tool_calls\[1\]\.arguments"),
        ({"function": {"arguments": "[" * 9999}}, r"\.tool_calls\[1\]\.function\.arguments"),
    ):
        message = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}, call]}
        with pytest.raises(PymlError, match=rf"^messages\[1\]{where}: expected a JSON object, got '[^']{{3,78}}'$"):
            templates("qwen2_5").render([user("x"), message])
    with pytest.raises(PymlError, match=r"^messages\[0\]\.function_call\.arguments: expected a JSON object, got 'x'$"):
        templates("qwen2_5").render([{"role": "assistant", "function_call": {"name": "f", "arguments": "x"}}])


# ---- where templates are found


def bare_folder(folder: Path) -> Path:
    tokenizers_of_models.write("smollm2", folder)
    (folder / "chat_template.jinja").unlink()
    return folder


def with_config(folder: Path, template: Any) -> Path:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": template}))
    return folder


def texts(folder_or_metadata: Any, **options: Any) -> str:
    tokenizer = load_tokenizer(folder_or_metadata)
    template = ChatTemplate(tokenizer, "m")
    try:
        return template.render("Hi", **options)
    finally:
        template.close()


TOOL: dict[str, Any] = {"type": "function", "function": {"name": "f"}}


def test_several_templates_by_name(tmp_path: Path) -> None:
    listed = [{"name": name, "template": name} for name in ("default", "tool_use", "rag")]
    folder = with_config(bare_folder(tmp_path), listed)
    assert texts(folder) == texts(folder, tools=[]) == "default"
    assert texts(folder, tools=[TOOL]) == "tool_use"
    assert texts(folder, tools=[TOOL], template="rag") == "rag"
    with pytest.raises(PymlError, match="expected one of default, tool_use, rag, got 'x'"):
        texts(folder, template="x")
    with_config(folder, listed[1:])
    with pytest.raises(PymlError, match="expected one of tool_use, rag, got 'default'"):
        texts(folder)
    with_config(folder, listed[2:])
    assert texts(folder, tools=[TOOL]) == "rag"
    (folder / "chat_template.jinja").write_text("file")
    assert texts(folder) == "file"
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("added")
    assert texts(folder, tools=[TOOL]) == "added"


def test_a_legacy_file(tmp_path: Path) -> None:
    folder = bare_folder(tmp_path)
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": "legacy"}))
    assert texts(folder) == "legacy"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (5, "chat_template: expected text, got int"),
        ([5], "chat_template: expected a name and a template, got 5"),
        ([{"name": "a"}], "chat_template: expected a name and a template"),
        ([{"name": "default", "template": None}], "chat_template: expected text, got NoneType"),
    ],
)
def test_malformed_templates(value: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(PymlError, match=message):
        load_tokenizer(with_config(bare_folder(tmp_path), value))


def test_named_templates_of_a_gguf(smollm2_gguf: Path) -> None:
    metadata = GGUFFile(smollm2_gguf).metadata
    tokenizer = load_gguf({**metadata, "tokenizer.chat_template.tool_use": "{{ bos_token }}|{{ pad_token }}"}, "x.gguf")
    template = ChatTemplate(tokenizer, "x.gguf")
    assert template.render("Hi", tools=[TOOL]) == "<|im_start|>|<|im_end|>"
    assert template.render("Hi").startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    template.close()
    with pytest.raises(PymlError, match=r"tokenizer\.chat_template\.rag: expected text"):
        load_gguf({**metadata, "tokenizer.chat_template.rag": 5}, "x.gguf")
