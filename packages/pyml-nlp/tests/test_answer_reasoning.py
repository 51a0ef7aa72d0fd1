"""Reasoning in answers: what is divided off, and which prompts have opened it."""

from __future__ import annotations

import pytest
from answers import EOS, Answer, Letters, form_of, pieces_of, read, read_pieces

from pyml_nlp.options.generation import GenerationOptions

THINK = ("<think>", "</think>")
CALL = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'

CASES = {
    "reasoning and text": ("<think>\nHm. \n\nYes.\n</think>\n\nIt is 4.\n", Answer("It is 4.\n", [], "Hm. \n\nYes.")),
    "nothing in it": ("<think>\n\n</think>\n\nIt is 4.", Answer("It is 4.")),
    "space before it": ("\n<think>Hm</think>4", Answer("4", [], "Hm")),
    "text alone": ("It is 4.", Answer("It is 4.")),
    "text that begins with space": (" It is 4.", Answer(" It is 4.")),
    "space alone": ("  ", Answer("  ")),
    "a tag later": ("It is <think>4</think>", Answer("It is <think>4</think>")),
    "without an end": ("<think>Hm </thin", Answer("", [], "Hm </thin")),
    "reasoning alone": ("<think>Hm</think>\n", Answer("", [], "Hm")),
    "a call": ("<think>Hm</think>\n\n" + CALL, Answer("", [("add", '{"a": 1}')], "Hm")),
    "text and a call": ("<think>Hm</think>\nI add.\n" + CALL, Answer("I add.\n", [("add", '{"a": 1}')], "Hm")),
    "a call in it": ("<think>" + CALL + "</think>4", Answer("4", [], CALL)),
}


@pytest.mark.parametrize("name", CASES)
def test_reasoning_however_the_text_is_cut(name: str) -> None:
    text, expected = CASES[name]
    for pieces in ([text], list(text), *(pieces_of(text, seed) for seed in range(60))):
        assert read_pieces(form_of("hermes", reasoning=THINK), pieces) == expected


@pytest.mark.parametrize("kind", ["special", "added"])
def test_markers_that_are_tokens(kind: str) -> None:
    letters = Letters(**{kind: THINK})
    form = form_of(None, letters, reasoning=THINK)
    text = "<think>\nHm.\n</think>\n\nYes."
    assert read(form, [*letters.ids(text), EOS]) == Answer("Yes.", [], "Hm.")
    assert read(form, [ord(letter) for letter in text]) == Answer(text)


def test_a_prompt_that_has_opened_it() -> None:
    letters = Letters(added=THINK)
    form = form_of(None, letters, reasoning=THINK)
    answer = letters.ids("Hm.\n</think>\n\nYes.")
    for prompt in ("Hi<assistant><think>", "Hi<assistant><think>\n"):
        assert read(form, answer, letters.ids(prompt)) == Answer("Yes.", [], "Hm.")
    for prompt in ("Hi<assistant>", "<think> Hi<assistant>", "<assistant><think>\n\n</think>\n\n"):
        assert read(form, letters.ids("Yes."), letters.ids(prompt)) == Answer("Yes.")


def test_tokens_of_reasoning_are_counted() -> None:
    letters = Letters(added=THINK)
    form = form_of(None, letters, reasoning=THINK)
    parser = form.parser(letters.ids("<think>"), GenerationOptions())
    for token in letters.ids("abc</think>de"):
        parser.push(token, letters.push(token))
    assert parser.reasoning_tokens == 3
    parser = form.parser((), GenerationOptions())
    for token in letters.ids("de"):
        parser.push(token, letters.push(token))
    assert parser.reasoning_tokens == 0
