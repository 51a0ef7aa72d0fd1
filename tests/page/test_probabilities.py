"""Probabilities of tokens: colours, the most probable ones, and another one that is forced."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from .actions import answer, ask, ended, kept, press, set_field, text_of
from .scripted import Script

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from .conftest import Open

pytest.importorskip("playwright")


def entry(text: str, p: float, others: tuple[tuple[str, float], ...] = ()) -> dict[str, Any]:
    """An entry of ``logprobs``."""
    top = sorted([(text, p), *others], key=lambda one: -one[1])
    data = [{"token": one, "logprob": math.log(q), "bytes": list(one.encode())} for one, q in top]
    return {"token": text, "logprob": math.log(p), "bytes": list(text.encode()), "top_logprobs": data}


def delta(text: str, *entries: dict[str, Any]) -> dict[str, Any]:
    """A delta with the probabilities of its tokens."""
    return {"content": text, "logprobs": {"content": list(entries)}}


OTHERS = ((" dog", 0.2), ("<|im_end|>", 0.1), (" cow", 0.004))
PIECES = [delta("A", entry("A", 0.99)), delta(" cat", entry(" cat", 0.6, OTHERS)), delta(" é.", entry(" é.", 0.003))]


def with_probabilities(page: Page) -> Page:
    """The page, with the switch on."""
    set_field(page, "probabilities", True)
    page.click("#show-settings")
    return page


def test_tokens_are_coloured_and_tell_their_alternatives(scripted: str, script: Script, open_page: Open) -> None:
    script.pieces = PIECES
    page = with_probabilities(open_page(scripted))
    ask(page, "Say")
    assert script.bodies[-1]["top_logprobs"] == 10
    tokens = answer(page).locator(".tokens .t")
    assert tokens.all_inner_texts() == ["A", " cat", " é."]
    assert [one.get_attribute("class") for one in tokens.all()] == ["t s0", "t s1", "t s5"]
    tokens.nth(1).hover()
    box = page.locator("#alternatives")
    assert [one.inner_text().split() for one in box.locator("li").all()] == [
        ["␣cat", "60", "%"],
        ["␣dog", "20", "%"],
        ["<|im_end|>", "10", "%"],
        ["␣cow", "0.4", "%"],
    ]
    page.locator("#input").hover()
    assert box.is_hidden()
    press(page, "Probabilities")
    assert answer(page).locator(".tokens").count() == 0
    assert text_of(page) == "A cat é."


def test_the_keyboard_alone(scripted: str, script: Script, open_page: Open) -> None:
    script.pieces = PIECES
    page = with_probabilities(open_page(scripted))
    ask(page, "Say")
    answer(page).locator(".tokens .t").first.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "␣cat, 60 %"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.innerText") == "␣dog"
    disabled = page.locator("#alternatives button:disabled").all_inner_texts()
    assert disabled == ["␣cat", "<|im_end|>"]  # the chosen one, and a control token
    page.keyboard.press("Escape")
    assert page.locator("#alternatives").is_hidden()
    assert page.evaluate("document.activeElement.innerText") == " cat"
    page.keyboard.press("Enter")
    script.pieces = [delta(" sat", entry(" sat", 0.5))]
    page.keyboard.press("Enter")
    ended(page)
    assert answer(page).locator(".tokens .t").all_inner_texts() == ["A", " dog", " sat"]
    assert answer(page).locator(".tokens .forced").all_inner_texts() == [" dog"]
    first, second = script.bodies
    assert second["messages"][-1] == {"role": "assistant", "content": "A dog"}
    assert second["continue_final_message"] is True
    assert second["seed"] == first["seed"]
    answer(page).get_by_role("button", name="Branch before").click()
    assert answer(page).locator(".tokens .t").all_inner_texts() == ["A", " cat", " é."]


def test_characters_of_several_tokens(scripted: str, script: Script, open_page: Open) -> None:
    parts = [{"token": "\ufffd", "logprob": -0.1, "bytes": [byte], "top_logprobs": []} for byte in "é".encode()]
    script.pieces = [delta("x", entry("x", 0.9)), delta("é", *parts), delta("y", entry("y", 0.5, (("z", 0.3),)))]
    page = with_probabilities(open_page(scripted))
    ask(page, "Say")
    tokens = answer(page).locator(".tokens .t")
    assert tokens.all_inner_texts() == ["x", "·", "é", "y"]
    tokens.nth(3).click()
    script.pieces = ["!"]
    page.get_by_role("button", name="z", exact=True).click()
    ended(page)
    assert script.bodies[-1]["messages"][-1]["content"] == "xéz"


def test_tokens_of_the_reasoning_cannot_be_forced(scripted: str, script: Script, open_page: Open) -> None:
    reasoning = {
        "reasoning_content": "a b",
        "logprobs": {"content": [entry("<think>", 0.9), entry("a", 0.9), entry(" b", 0.9)]},
    }
    script.pieces = [reasoning, delta("a", entry("</think>", 0.9), entry("a", 0.9, (("c", 0.05),)))]
    page = with_probabilities(open_page(scripted))
    ask(page, "Say")
    tokens = answer(page).locator(".tokens .t")
    assert tokens.count() == 5
    tokens.nth(1).click()
    assert page.locator("#alternatives button:enabled").count() == 0
    page.keyboard.press("Escape")
    tokens.nth(4).click()
    page.get_by_role("button", name="c", exact=True).click()
    ended(page)
    assert script.bodies[-1]["messages"][-1] == {"role": "assistant", "content": "c", "reasoning_content": "a b"}


def test_the_space_that_a_tokenizer_adds(scripted: str, script: Script, open_page: Open) -> None:
    """The first token of a SentencePiece model has a space that the text has not."""
    script.pieces = [
        delta("Hi", entry(" Hi", 0.9, ((" Ho", 0.05),))),
        delta(" all", entry(" all", 0.9, ((" you", 0.05),))),
    ]
    page = with_probabilities(open_page(scripted))
    ask(page, "Say")
    for number, name, content in ((1, "␣you", "Hi you"), (0, "␣Ho", "Ho")):
        answer(page, 0).locator(".tokens .t").nth(number).click()
        page.get_by_role("button", name=name, exact=True).click()
        ended(page)
        assert script.bodies[-1]["messages"][-1]["content"] == content
        answer(page).get_by_role("button", name="Branch before").click()


def test_tokens_of_spaces(scripted: str, script: Script, open_page: Open) -> None:
    other = (("!", 0.05),)
    script.pieces = [
        delta("  \n", entry("  ", 0.9, other), entry("\n", 0.9)),
        delta("a b", entry("a", 0.9), entry(" b", 0.9, other)),
    ]
    page = with_probabilities(open_page(scripted))
    ask(page, "Say")
    for number, content in ((3, "  \na!"), (0, "!")):
        answer(page, 0).locator(".tokens .t").nth(number).click()
        page.get_by_role("button", name="!", exact=True).click()
        ended(page)
        assert script.bodies[-1]["messages"][-1]["content"] == content
        answer(page).get_by_role("button", name="Branch before").click()


def test_tokens_of_a_model_without_a_chat_template(scripted: str, script: Script, open_page: Open) -> None:
    script.template = None
    logprobs = {
        "tokens": [" a", "bytes:\\xc3", "bytes:\\xa9"],
        "token_logprobs": [-0.01, -1.0, -0.5],
        "top_logprobs": [{" a": -0.01, " b": -3.0}, {"bytes:\\xc3": -1.0}, {}],
    }
    script.pieces = [{"content": " aé", "logprobs": logprobs}]
    page = with_probabilities(open_page(scripted))
    page.get_by_text("Begin a text").wait_for()
    ask(page, "x")
    assert answer(page).locator(".tokens .t").all_inner_texts() == [" a", "·", "é"]
    assert script.bodies[-1]["logprobs"] == 10
    answer(page).locator(".tokens .t").first.click()
    page.get_by_role("button", name="␣b", exact=True).click()
    ended(page)
    assert script.bodies[-1]["prompt"] == "x b"


def test_a_forced_token_gives_the_same_text_again(smollm2: str, open_page: Open) -> None:
    """With a real model: the branch of a token is the same whenever it is chosen."""
    page = with_probabilities(open_page(smollm2))
    set_field(page, "max_tokens", "24")
    set_field(page, "temperature", "1")
    page.click("#show-settings")
    ask(page, "Tell me about the sea.")
    whole = answer(page).locator(".tokens .t").all_inner_texts()
    assert len(whole) == 24
    assert "".join(whole).strip() == kept(page)[0]["nodes"][1]["content"].strip()
    found = []
    for _ in range(2):
        answer(page).locator(".tokens .t").nth(3).click()
        box = page.locator("#alternatives")
        assert box.locator("li").count() in (10, 11)
        box.locator("button:enabled").nth(2).click()
        ended(page)
        tokens = answer(page).locator(".tokens .t")
        assert str(tokens.nth(3).get_attribute("class")).endswith("forced")
        found.append(tokens.all_inner_texts())
        back = answer(page).get_by_role("button", name="Branch before")
        while back.is_enabled():
            back.click()
        assert answer(page).locator(".tokens .t").all_inner_texts() == whole
    assert found[0] == found[1]
    assert found[0][:3] == whole[:3]
    assert found[0] != whole
