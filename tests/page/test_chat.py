"""Chats on the page: streams, stop, branches, settings, errors, and what is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyml_nlp.server.guard import Guard
from pyml_nlp.server.guard_keys import Keys
from pyml_nlp.server.guard_origins import Hosts, Origins

from .actions import answer, ask, ended, kept, press, set_field, text_of, until
from .conftest import served
from .scripted import KEY, Script, scripted_app

if TYPE_CHECKING:
    from .conftest import Open

pytest.importorskip("playwright")


def test_an_answer_is_shown_while_it_is_written(scripted: str, script: Script, open_page: Open) -> None:
    script.pieces, script.hold = ["# Title\n\n", "some *te", "xt*\n\n```py\nx = 1\n", "y = 2\n```\n\nend"], 3
    page = open_page(scripted)
    ask(page, "Go on", wait=False)
    page.wait_for_selector("pre code")
    body = answer(page).locator(".body")
    assert body.locator("h1").inner_text() == "Title"
    assert body.locator("em").inner_text() == "text"
    assert body.locator("pre code").inner_text() == "x = 1\n"
    assert answer(page).get_attribute("aria-busy") == "true"
    assert page.locator("#stop").is_visible()
    assert "tokens" in answer(page).locator(".facts").inner_text()
    script.released.set()
    ended(page)
    assert body.locator("pre code").inner_text() == "x = 1\ny = 2\n"
    assert body.locator("p").last.inner_text() == "end"
    answer(page).get_by_text("6 of 8 drafted").wait_for()
    facts = answer(page).locator(".facts").inner_text()
    for part in (
        "waited 1.23 s",
        "first token",
        "prompt 1,200, 1,100 reused",
        "7 tokens",
        "tokens/s",
        "seed",
        "complete",
    ):
        assert part in facts
    assert page.evaluate("document.activeElement.id") == "input"
    assert script.bodies[0]["messages"] == [{"role": "user", "content": "Go on"}]
    assert script.bodies[0]["stream"] is True


def test_markup_in_texts_stays_text(scripted: str, script: Script, open_page: Open) -> None:
    evil = '<img src=x onerror="document.title=1"><script>document.title=2</script> ![a](http://127.0.0.1:1/a.png)'
    script.pieces = [evil, f"\n\n```\n{evil}\n```\n\n[x](javascript:document.title=3)"]
    page = open_page(scripted)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    ask(page, evil)
    assert page.locator("#messages :is(img, script, iframe, object, style)").count() == 0
    assert page.locator("#messages a").count() == 1
    assert page.locator("#messages a").get_attribute("rel") == "noopener noreferrer nofollow"
    assert "pyml" in page.title()
    assert all(url.startswith(scripted) for url in asked)


def test_stop(scripted: str, script: Script, open_page: Open) -> None:
    script.pieces, script.hold = ["one two", " three"], 1
    page = open_page(scripted)
    for by_key in (False, True):
        ask(page, "Count", wait=False)
        page.get_by_text("one two").last.wait_for()
        if by_key:
            page.keyboard.press("Escape")
        else:
            page.click("#stop")
        ended(page)
        assert text_of(page) == "one two"
        assert "stopped" in answer(page).locator(".facts").inner_text()
    page.wait_for_timeout(100)
    script.released.set()
    assert script.left == 2
    script.hold = None
    press(page, "Continue")
    ended(page)
    assert text_of(page) == "one twoone two three"
    assert script.bodies[-1]["continue_final_message"] is True
    assert script.bodies[-1]["messages"][-1] == {"role": "assistant", "content": "one two"}


def test_branches(scripted: str, script: Script, open_page: Open) -> None:
    page = open_page(scripted)
    script.pieces = ["first"]
    ask(page, "A")
    script.pieces = ["second"]
    press(page, "Another answer")
    ended(page)
    assert text_of(page) == "second"
    assert answer(page).locator(".branch").inner_text().split() == ["‹", "2", "of", "2", "›"]
    ask(page, "B")
    answer(page, 0).get_by_role("button", name="Branch before").click()
    assert text_of(page) == "first"
    assert page.locator(".message").count() == 2
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Branch after"
    page.keyboard.press("Enter")
    assert page.locator(".message").count() == 4
    # an edited message is a branch, too
    page.locator(".message.user").first.get_by_role("button", name="Edit").click()
    page.keyboard.press("Control+A")
    page.keyboard.type("A2")
    script.pieces = ["third"]
    page.keyboard.press("Control+Enter")
    ended(page)
    assert page.locator(".typed").all_inner_texts() == ["A2"]
    assert script.bodies[-1]["messages"] == [{"role": "user", "content": "A2"}]
    press(page, "Edit")
    page.keyboard.press("Control+A")
    page.keyboard.type("my own")
    page.keyboard.press("Control+Enter")
    assert text_of(page) == "my own"
    assert len(script.bodies) == 4
    ask(page, "C")
    assert [one["content"] for one in script.bodies[-1]["messages"]] == ["A2", "my own", "C"]


def test_settings_are_sent_and_kept(scripted: str, script: Script, open_page: Open) -> None:
    page = open_page(scripted)
    values = {"system": "Be kind.", "temperature": "0.5", "top_k": "0", "min_p": "0.05", "seed": "9007199254740991"}
    values |= {"max_tokens": "20", "stop": "END\n\n###", "repetition_penalty": "1.1", "presence_penalty": "-1"}
    for name, value in values.items():
        set_field(page, name, value)
    set_field(page, "schema", '{"type": "object"}')
    page.reload()
    ask(page, "Hi")
    body = script.bodies[-1]
    assert body["messages"][0] == {"role": "system", "content": "Be kind."}
    assert (body["temperature"], body["top_k"], body["min_p"], body["seed"]) == (0.5, 0, 0.05, 9007199254740991)
    assert (body["max_tokens"], body["stop"], body["presence_penalty"]) == (20, ["END", "###"], -1)
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert "top_p" not in body
    assert "logprobs" not in body
    press(page, "Continue")
    assert "JSON schema" in page.locator("#error").inner_text()
    # what is invalid is said, and not sent
    set_field(page, "schema", "{")
    page.fill("#input", "Again")
    page.press("#input", "Enter")
    assert "JSON schema" in page.locator("#error").inner_text()
    assert page.evaluate("document.activeElement.name") == "schema"
    assert page.input_value("#input") == "Again"
    set_field(page, "schema", "")
    set_field(page, "temperature", "3")
    page.press("#input", "Enter")
    assert "Temperature" in page.locator("#error").inner_text()
    assert len(script.bodies) == 1
    page.get_by_role("button", name="Reset all").click()
    ask(page, "Again")
    assert "temperature" not in script.bodies[-1]
    assert isinstance(script.bodies[-1]["seed"], int)


def test_chats_are_kept(scripted: str, open_page: Open, tmp_path: Path) -> None:
    page = open_page(scripted, accept_downloads=True)
    ask(page, "First question")
    page.keyboard.press("Alt+n")
    assert page.locator(".message").count() == 0
    ask(page, "Second question")
    page.reload()
    assert page.locator("#chat-list li").all_inner_texts() == ["Second question\n×", "First question\n×"]
    page.get_by_role("button", name="First question", exact=True).click()
    assert page.locator(".typed").inner_text() == "First question"
    assert text_of(page) == "Hello world."
    set_field(page, "system", "S")
    with page.expect_download() as download:
        page.click("#export")
    exported = tmp_path / "messages.json"
    download.value.save_as(exported)
    assert json.loads(exported.read_text()) == [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "First question"},
        {"role": "assistant", "content": "Hello world."},
    ]
    page.set_input_files("#import-file", exported)
    until(page, "document.querySelectorAll('#chat-list li').length === 3")
    assert text_of(page) == "Hello world."
    broken = tmp_path / "broken.json"
    for content, said in (
        ("[", "broken.json"),
        ("{}", "list of messages"),
        ('[{"role": "tool", "content": ""}]', "role"),
    ):
        broken.write_text(content)
        page.set_input_files("#import-file", broken)
        until(page, f"document.getElementById('error').innerText.includes('{said}')")
    page.on("dialog", lambda dialog: dialog.accept())
    for _ in range(3):
        page.get_by_role("button", name="Delete").first.click()
    assert page.locator("#chat-list li").count() == 0
    assert kept(page) == []


def test_a_full_storage_is_said(scripted: str, open_page: Open) -> None:
    page = open_page(scripted)
    page.evaluate("localStorage.setItem('other', 'x'.repeat(5 * 1024 * 1024 - 3000))")
    ask(page, "x" * 4000)
    assert "storage is full" in page.locator("#error").inner_text()
    assert text_of(page) == "Hello world."


def test_reasoning_is_folded(scripted: str, script: Script, open_page: Open) -> None:
    script.pieces = [{"reasoning_content": "Let me "}, {"reasoning_content": "think <b>."}, "Done."]
    page = open_page(scripted)
    ask(page, "Why?")
    assert text_of(page).split() == ["Reasoning", "Done."]
    answer(page).locator("summary").click()
    assert answer(page).locator(".reasoning div").inner_text() == "Let me think <b>."
    assert kept(page)[0]["nodes"][1]["reasoning"] == "Let me think <b>."


def test_a_model_without_a_chat_template(scripted: str, script: Script, open_page: Open) -> None:
    script.template, script.pieces = None, [" Paris", "."]
    page = open_page(scripted)
    page.get_by_text("Begin a text").wait_for()
    set_field(page, "system", "Facts:\n")
    ask(page, "The capital of France is")
    ask(page, "That of Spain is")
    press(page, "Continue")
    ended(page)
    assert text_of(page) == "Paris. Paris."
    first, second, third = [body["prompt"] for body in script.bodies]
    assert first == "Facts:\nThe capital of France is"
    assert second == first + " Paris.\nThat of Spain is"
    assert third == second + " Paris."
    assert {"messages", "continue_final_message"}.isdisjoint(script.bodies[-1])
    assert script.bodies[-1]["max_tokens"] == 256


def test_a_timeline(scripted: str, script: Script, open_page: Open) -> None:
    script.traced = True
    page = open_page(scripted, accept_downloads=True)
    ask(page, "Hi")
    with page.expect_download() as download:
        press(page, "Timeline")
    assert json.loads(Path(download.value.path()).read_text()) == {"format": "perfetto"}


def test_a_browser_sends_the_password_it_was_given(script: Script, open_page: Open) -> None:
    """The guard lets a browser ask for a key as a password; the page needs no field for it then."""
    guarded = Guard(scripted_app(script), Keys({"alice": KEY}), Hosts(), Origins())
    with served(guarded) as address:
        page = open_page(address, http_credentials={"username": "any", "password": KEY})
        ask(page, "Hi")
        assert text_of(page) == "Hello world."


def test_errors(scripted: str, script: Script, open_page: Open) -> None:
    page = open_page(scripted, expected=("400",))
    script.error = 400, "the prompt is too long"
    ask(page, "Hi")
    assert page.locator("#error").inner_text().startswith("the prompt is too long")
    assert page.locator("#error").get_attribute("role") == "alert"
    assert page.locator(".message").count() == 1
    script.error = None
    page.get_by_role("button", name="Answer", exact=True).click()
    ended(page)
    assert text_of(page) == "Hello world."
    assert page.locator("#error").is_hidden()
    script.finish = None  # the connection is cut
    ask(page, "Again")
    assert "ended before the answer" in page.locator("#error").inner_text()
    assert text_of(page) == "Hello world."
    assert "failed" in answer(page).locator(".facts").inner_text()


def test_a_key_is_asked_for(scripted: str, script: Script, open_page: Open) -> None:
    script.needs_key = True
    page = open_page(scripted, expected=("401",))
    until(page, "document.activeElement.id === 'key'")
    page.keyboard.type(KEY)
    page.keyboard.press("Enter")
    page.get_by_role("button", name="scripted-model").wait_for()
    ask(page, "Hi")
    assert text_of(page) == "Hello world."
    assert page.evaluate("[Object.values(sessionStorage), JSON.stringify(localStorage).includes('sk-')]") == [
        [KEY],
        False,
    ]


def test_a_model_that_is_loaded(scripted: str, script: Script, open_page: Open) -> None:
    script.loading = True
    page = open_page(scripted, expected=("503",))
    page.get_by_text("the model is being loaded").wait_for()
    script.loading = False
    page.get_by_role("button", name="scripted-model").wait_for()
    assert page.locator("#error").is_hidden()
    page.click("#show-facts")
    facts = page.locator("#facts").inner_text()
    for part in ("parameters", "123,456,789", "8,192", "1.2.3"):
        assert part in facts
