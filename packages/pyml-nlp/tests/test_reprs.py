"""What objects look like on a console and in a notebook."""

from __future__ import annotations

from fake_model import cycle, make, script

from pyml_core.notebook import html_table
from pyml_nlp.chat import Conversation
from pyml_nlp.generation.iterator import Generation


def test_a_text_as_it_grows() -> None:
    lm = make(script(b"<b>the day</b>", 2))
    generation = lm.generate("ab", max_tokens=20)
    assert repr(generation) == "<Generation: 0 of at most 20 tokens, '', running>"
    for _ in range(3):
        next(generation)
    assert repr(generation) == "<Generation: 3 of at most 20 tokens, '<b>', running>"
    assert generation.read() == "<b>the day</b>"
    assert repr(generation) == "<Generation: 15 of at most 20 tokens, '<b>the day</b>', stop>"
    assert repr(generation.completion) == "<Completion 0: 15 of at most 20 tokens, '<b>the day</b>', stop>"
    for shown in (generation._repr_html_(), generation.completion._repr_html_()):
        assert "&lt;b&gt;the day&lt;/b&gt;" in shown
        assert "<b>" not in shown


def test_read_returns_the_whole_text() -> None:
    lm = make(cycle)
    whole = lm.generate_text("ab", max_tokens=9)
    generation = lm.generate("ab", max_tokens=9)
    next(generation)
    assert generation.read() == whole
    assert generation.read() == whole
    cancelled = lm.generate("ab", max_tokens=9)
    next(cancelled)
    cancelled.cancel()
    assert cancelled.read() == whole[:1]


def test_a_batch_says_how_far_it_is() -> None:
    batch = make(cycle).generate_batch(["ab", "b"], max_tokens=3)
    assert repr(batch) == "<Batch: 0 of 2 texts given>"
    next(batch)
    assert repr(batch) == "<Batch: 1 of 2 texts given>"


def test_a_submitted_text() -> None:
    lm = make(script(b"<b>the day</b>", 2), name="letters")
    stream = lm.submit("ab", max_tokens=20)
    assert stream.result().text == "<b>the day</b>"
    assert repr(stream) == "<TextStream: 15 tokens, stop>"
    assert "&lt;b&gt;the day&lt;/b&gt;" in stream._repr_html_()
    assert repr(lm.server) == "<Server of letters: 0 texts running, 0 waiting>"
    lm.close()


def test_a_conversation() -> None:
    lm = make(script(b"a < b", 9))
    conversation = Conversation(lm, "Be <brief>.")
    assert repr(conversation) == "<Conversation: 1 messages, 0 tokens computed>"
    shown = conversation._repr_html_()
    assert "system</th>" in shown
    assert "Be &lt;brief&gt;." in shown
    assert "0 tokens" in shown


def test_a_long_text_is_cut() -> None:
    lm = make(cycle, context=500)
    generation: Generation = lm.generate("ab", max_tokens=300)
    generation.read()
    assert len(repr(generation)) < 150


def test_a_closed_model() -> None:
    lm = make(cycle, name="letters")
    assert repr(lm) == "<LanguageModel letters: 0.0M params, context 64>"
    lm.close()
    assert repr(lm) == "<LanguageModel letters: closed>"


def test_tables_of_notebooks() -> None:
    assert html_table("A<B", {"x&y": "1\n<2>"}) == (
        "<table><caption>A&lt;B</caption><tr><th style='text-align: left'>x&amp;y</th>"
        "<td style='white-space: pre-wrap; text-align: left'>1\n&lt;2&gt;</td></tr></table>"
    )
