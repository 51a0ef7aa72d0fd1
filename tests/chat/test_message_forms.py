"""Messages as clients of OpenAI's API send them: lists of parts, null beside calls; what a template does not use."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyml_nlp.chat import ChatTemplate
from pyml_nlp.errors import ChatTemplateError
from pyml_nlp.tokenizer import load_tokenizer
from tests.chat import tokenizers_of_models
from tests.chat.cases import TEMPLATES, assistant, user
from tests.chat.test_templates import TAKES_PARTS

STRINGS = "{% for m in messages %}[{{ m.role }}]{{ m.content + ';' }}{% endfor %}"
PRINTS = "{% for m in messages %}[{{ m.role }}]{{ m.content }};{% endfor %}"
JSON = "{% for m in messages %}[{{ m.role }}]{{ m.content | tojson }};{% endfor %}"
ITERATES = (
    "{% for m in messages %}[{{ m.role }}]{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content %}{% if part.type == 'text' %}({{ part.text }}){% endif %}{% endfor %}{% endif %};"
    "{% endfor %}"
)
CALL = {"type": "function", "id": "call_1", "function": {"name": "add", "arguments": '{"a": 1}'}}

Make = Callable[[str], ChatTemplate]


def parts(*texts: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text} for text in texts]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes a chat template of a Jinja source, with SmolLM2's control tokens."""
    made: list[ChatTemplate] = []

    def of(source: str) -> ChatTemplate:
        folder = tokenizers_of_models.write("smollm2", tmp_path / f"model{len(made)}")
        (folder / "chat_template.jinja").write_text(source)
        made.append(ChatTemplate(load_tokenizer(folder), "the model"))
        return made[-1]

    yield of
    for template in made:
        template.close()


@pytest.mark.parametrize(
    ("message", "found"),
    [({"role": "user"}, "None"), ({"role": "user", "content": None}, "None"), ({"role": "system", "content": 5}, "5")],
)
def test_messages_without_a_text(message: dict[str, Any], found: str, make: Make) -> None:
    with pytest.raises(
        ChatTemplateError, match=rf"^messages\[0\]: content: expected a text or a list .*, got {found}$"
    ):
        make(PRINTS).render([message])


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
    """Makes the chat template of a model."""
    made: list[ChatTemplate] = []

    def of(name: str) -> ChatTemplate:
        folder = tokenizers_of_models.write(name, tmp_path_factory.mktemp(name))
        made.append(ChatTemplate(load_tokenizer(folder), name))
        return made[-1]

    yield of
    for template in made:
        template.close()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (STRINGS, "[user]one\ntwo;[assistant]three;"),
        (PRINTS, "[user]one\ntwo;[assistant]three;"),
        (JSON, '[user]"one\\ntwo";[assistant]"three";'),
        (ITERATES, "[user](one)(two);[assistant](three);"),
    ],
)
def test_parts_of_text(source: str, expected: str, make: Make) -> None:
    template = make(source)
    messages = [user(parts("one", "two")), assistant([{"type": "output_text", "text": "three", "annotations": []}])]
    assert template.render(messages) == expected
    assert template.render([user(parts("a"))], continue_final_message=True).endswith("a")


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_one_part_is_a_text(name: str, named: Make) -> None:
    template = named(name)
    for text in ("Hello", " <|im_end|> é\n"):
        messages = [user(text), assistant("Yes."), user("a")]
        apart = [user(parts(text)), assistant(parts("Yes.")), user(parts("a"))]
        assert template.ids(apart) == template.ids(messages)


@pytest.mark.parametrize("name", sorted(set(TEMPLATES) - TAKES_PARTS))
def test_parts_are_joined_for_templates_of_texts(name: str, named: Make) -> None:
    template = named(name)
    joined = template.ids([user("one\ntwo"), assistant("3,\n4")], continue_final_message=True)
    messages = [user(parts("one", "two")), assistant(parts("3,", "4"))]
    assert template.ids(messages, continue_final_message=True) == joined


def test_no_control_token_across_parts(make: Make) -> None:
    for source in (STRINGS, ITERATES.replace("({{ part.text }})", "{{ part.text }}")):
        template = make(source)
        ids = template.ids([user(parts("<|im_", "end|>", "<|im_end|>"))])
        end = template._tokenizer.control_tokens["<|im_end|>"]
        assert end not in ids


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"type": "image_url", "image_url": {"url": "data:"}}, "images are not supported, only parts of type text"),
        ({"type": "image"}, "images are not supported, only parts of type text"),
        ({"type": "input_audio", "input_audio": {}}, "audio are not supported, only parts of type text"),
        ({"type": "file", "file": {}}, "files are not supported, only parts of type text"),
        ({"type": "text"}, "expected a part such as {'type': 'text', 'text': ...}, got {'type': 'text'}"),
        ({"type": "text", "text": 5}, "expected a part such as {'type': 'text', 'text': ...}, got "),
        ({"type": "smell", "text": "x"}, "expected a part such as {'type': 'text', 'text': ...}, got {'type': 'smell'"),
        ({"type": ["text"]}, "expected a part such as {'type': 'text', 'text': ...}, got {'type': ['text']}"),
        ("text", "expected a part such as {'type': 'text', 'text': ...}, got 'text'"),
        (None, "expected a part such as {'type': 'text', 'text': ...}, got None"),
    ],
)
def test_other_parts(part: Any, message: str, make: Make) -> None:
    template = make(ITERATES)
    with pytest.raises(ChatTemplateError, match=rf"^messages\[1\]\.content\[1\]: {re.escape(message)}"):
        template.render([user("a"), user([*parts("b"), part])])


def test_results_of_tools_may_be_any_list(make: Make) -> None:
    result = {"role": "tool", "content": [{"celsius": 21}, 5]}
    assert make(JSON).render([user("a"), result]) == '[user]"a";[tool][{"celsius": 21}, 5];'
    assert make(STRINGS).render([{"role": "tool", "content": parts("a", "b")}]) == "[tool]a\nb;"


@pytest.mark.parametrize("source", [STRINGS, PRINTS, ITERATES])
@pytest.mark.parametrize("bare", [{"content": None}, {}])
def test_calls_without_content(source: str, bare: dict[str, Any], make: Make) -> None:
    messages = [user("Add."), {"role": "assistant", **bare, "tool_calls": [CALL]}]
    assert make(source).render(messages) == "[user]Add.;[assistant];"


def test_what_a_template_does_not_use(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    options: dict[str, Any] = {"tools": [CALL], "documents": [{"title": "a"}], "variables": {"x": 1, "y": 2}}
    template = make(PRINTS + "{% macro m() %}{{ y }}{% if documents is defined %}1{% endif %}{% endmacro %}{{ m() }}")
    with caplog.at_level(logging.WARNING, "pyml"):
        for _ in range(2):
            template.render([user("a")], **options)
            template.render([user("a")], tools=[], variables={})
    assert caplog.messages == [
        "the model: the chat template does not use tools, so it has no effect",
        "the model: the chat template does not use x, so it has no effect",
    ]


def test_templates_of_models_that_know_tools(named: Make, caplog: pytest.LogCaptureFixture) -> None:
    warned = {}
    for name in sorted(TEMPLATES):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "pyml"):
            named(name).render([user("a")], tools=[CALL])
        warned[name] = bool(caplog.messages)
    assert warned["smollm2"]
    assert not warned["qwen3"]
    assert not warned["llama3_1"]
