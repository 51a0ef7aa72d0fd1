"""Conversations: each turn runs only new tokens, with the results of a new run."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pyml_nlp
from pyml_core.errors import PymlError
from pyml_nlp.errors import ChatTemplateError
from pyml_nlp.language_model import LanguageModel
from pyml_nn import ContextOverflowError

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{% if m.role == 'assistant' %}{{ m.content.split('|')[-1] }}"
    "{% else %}{{ m.content }}{% endif %};{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture(scope="module")
def lm(tiny_dirs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[LanguageModel]:
    """A tiny Gemma 3, which has a sliding window, with a template that leaves thoughts (before "|") out."""
    folder = tmp_path_factory.mktemp("chat") / "model"
    shutil.copytree(tiny_dirs["gemma3"], folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    with pyml_nlp.load(folder, threads=1) as loaded:
        yield loaded


def text_of(generation: Any) -> str:
    return "".join(step.text for step in generation)


def test_turns_are_those_of_new_runs(lm: LanguageModel) -> None:
    chat = lm.conversation(system="s")
    said: list[Any] = ["the", "cat", {"role": "tool", "content": "in"}, "hat"]
    for number, message in enumerate(said):
        spoken = {"role": "user", "content": message} if isinstance(message, str) else message
        messages = [*chat.messages, spoken]
        whole = lm.chat_ids(messages)
        before = chat._cache.ids
        answer = chat.send(message, max_tokens=7, temperature=1.3, seed=number)
        text = text_of(answer)
        ran = len(answer.completion.prompt)
        if before == whole[: len(before)]:
            assert ran == len(whole) - len(before)
        lm.prefix_cache.clear()
        assert text == text_of(lm.chat(messages, max_tokens=7, temperature=1.3, seed=number))
        assert chat.messages == [*messages, {"role": "assistant", "content": text}]
    assert chat.system == "s"


def test_the_text_of_an_answer(lm: LanguageModel) -> None:
    messages = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "in"}]
    options: Any = {"continue_final_message": True, "max_tokens": 6, "temperature": 0}
    assert lm.chat_text(messages, **options) == text_of(lm.chat(messages, **options))
    chat = lm.conversation("s")
    assert chat.send("the", max_tokens=4).read() == chat.messages[-1]["content"]
    assert repr(chat).startswith("<Conversation: 3 messages, ")


def test_only_what_is_new_runs(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer whose ids are those of its text is not run again: only the new message is."""
    chat = lm.conversation()
    first = chat.send("the cat in the hat", max_tokens=5, temperature=0)
    text_of(first)
    held = chat._cache.length
    monkeypatch.setattr(lm, "chat_ids", lambda *_, **__: [*chat._cache.ids, *first.tokens[-1:], 5, 6])
    second = chat.send("and", max_tokens=2, temperature=0)
    assert second.completion.prompt == [first.tokens[-1], 5, 6]
    assert chat._cache.length == held


def test_thoughts_that_the_template_takes_away(lm: LanguageModel) -> None:
    chat = lm.conversation()
    text_of(chat.send("the", max_tokens=5, temperature=0))
    chat._messages = [chat.messages[0], {"role": "assistant", "content": "a long thought | the"}]
    chat._answer = None
    messages = [*chat.messages, {"role": "user", "content": "cat"}]
    text = text_of(chat.send("cat", max_tokens=6, temperature=0))
    lm.prefix_cache.clear()
    assert text == text_of(lm.chat(messages, max_tokens=6, temperature=0))


def test_an_answer_that_is_not_read_to_its_end(lm: LanguageModel) -> None:
    chat = lm.conversation()
    unread = chat.send("the", max_tokens=9, temperature=0)
    assert chat.messages == [{"role": "user", "content": "the"}]
    next(unread)
    started = chat.messages[-1]["content"]
    messages = [*chat.messages, {"role": "user", "content": "cat"}]
    text = text_of(chat.send("cat", max_tokens=6, temperature=0))
    assert chat.messages[1] == {"role": "assistant", "content": started}
    assert list(unread) == []  # it has ended
    assert unread.finish_reason == "cancelled"
    lm.prefix_cache.clear()
    assert text == text_of(lm.chat(messages, max_tokens=6, temperature=0))


def test_system_messages_and_a_new_beginning(lm: LanguageModel) -> None:
    chat = lm.conversation()
    assert chat.system is None
    text_of(chat.send("the", max_tokens=3, temperature=0))
    chat.system = "s"
    assert [message["role"] for message in chat.messages] == ["system", "user", "assistant"]
    chat.system = "t"
    assert chat.messages[0]["content"] == "t"
    chat.system = None
    assert [message["role"] for message in chat.messages] == ["user", "assistant"]
    chat.reset("u")
    assert chat.messages == [{"role": "system", "content": "u"}]
    chat.close()


def test_a_message_that_cannot_be_answered_is_no_part(lm: LanguageModel) -> None:
    chat = lm.conversation()
    text = text_of(chat.send("the", max_tokens=4, temperature=0))
    for message, error in (("cat " * 5000, ContextOverflowError), ({"role": "<x>"}, ChatTemplateError)):
        with pytest.raises(error):
            chat.send(message)
        assert chat.messages == [{"role": "user", "content": "the"}, {"role": "assistant", "content": text}]
    assert text_of(chat.send("cat", max_tokens=4, temperature=0))


def test_continued_answers(lm: LanguageModel) -> None:
    messages = [{"role": "user", "content": "the"}, {"role": "assistant", "content": "cat in"}]
    ids = lm.chat_ids(messages, continue_final_message=True)
    assert lm.tokenizer.decode(ids) == "[user]the;[assistant]cat in"
    assert text_of(lm.chat(messages, max_tokens=6, continue_final_message=True, temperature=0)) == text_of(
        lm.generate(ids, max_tokens=6, temperature=0)
    )


def test_models_that_cannot_chat(tiny_dirs: dict[str, Path]) -> None:
    with pyml_nlp.load(tiny_dirs["gpt2"], threads=1) as plain:
        for call in (plain.chat, plain.chat_ids, plain.apply_chat_template, plain.conversation):
            with pytest.raises(ChatTemplateError, match="the model has no chat template, so it was not made to chat"):
                call("Hi")


def test_a_closed_model(lm: LanguageModel, tiny_dirs: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(tiny_dirs["gpt2"], tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").write_text(TEMPLATE)
    other = pyml_nlp.load(tmp_path / "model", threads=1)
    other.chat_ids("Hi")
    process = other.chat_template._renderer._process
    assert process is not None
    other.close()
    assert process.returncode is not None
    with pytest.raises(PymlError, match="closed"):
        text_of(other.chat("Hi", temperature=0))


def test_a_real_model(smollm2_gguf: Path) -> None:
    """SmolLM2's answer in exact arithmetic ends by itself; the second turn runs only its new tokens."""
    with pyml_nlp.load(smollm2_gguf, dtype="f32") as real:
        chat = real.conversation()
        first = chat.send("What is the capital of France?", max_tokens=20, temperature=0)
        assert text_of(first) == "The capital of France is Paris."
        assert first.finish_reason == "stop"
        second = chat.send("And <|im_end|> of Italy?", max_tokens=1, temperature=0)
        prompt = real.tokenizer.decode(second.completion.prompt, skip_special=False)
        assert prompt == "<|im_end|>\n<|im_start|>user\nAnd <|im_end|> of Italy?<|im_end|>\n<|im_start|>assistant\n"
        ends = [number for number in second.completion.prompt if number in real.eos_ids]
        assert len(ends) == 2
