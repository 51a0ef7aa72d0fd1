"""Grammars that would take much time, memory or stack: refused within bounds, and without a crash."""

from __future__ import annotations

import functools
import json
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("llguidance")

from grammar_makers import Words, grammar_of

from pyml_core.cancel import CancelToken
from pyml_core.errors import Cancelled
from pyml_nlp.structured import trial
from pyml_nlp.structured.grammar import Grammar, GrammarError
from pyml_nlp.structured.matcher import Matcher, guarded, reason
from pyml_nlp.structured.vocabulary import Vocabulary

MANY_OPTIONAL = {"type": "object", "properties": {f"k{n}": {"type": "null"} for n in range(1000)}}


@pytest.fixture(scope="module")
def words() -> Words:
    return Words()


def doubling(count: int) -> dict[str, Any]:
    """References with siblings, which are copied: twice as often at each step."""

    def step(n: int) -> dict[str, str]:
        return {"type": "object", "$ref": f"#/$defs/d{n + 1}"}

    steps = {f"d{n}": {"type": "object", "properties": {"a": step(n), "b": step(n)}} for n in range(count)}
    return {"$defs": {**steps, f"d{count}": {"type": "object"}}, "$ref": "#/$defs/d0"}


def chain(rule: str, end: str, count: int) -> str:
    lines = [f"start: {rule}0", *(f"{rule}{n}: {rule}{n + 1}" for n in range(count)), f"{rule}{count}: {end}", ""]
    return "\n".join(lines)


def references(count: int) -> dict[str, Any]:
    links = {f"d{n}": {"type": "object", "properties": {"a": {"$ref": f"#/$defs/d{n + 1}"}}} for n in range(count)}
    return {"$defs": {**links, f"d{count}": {"type": "null"}}, "$ref": "#/$defs/d0"}


TIME = "expected at most 2 s of processor time to compile, found more"
MEMORY = ("MiB of memory to compile, found more", TIME)  # on a slow machine time is over first
HARD: dict[str, tuple[Callable[[], Grammar], str | tuple[str, ...]]] = {
    "copies of references": (lambda: grammar_of(doubling(40)), MEMORY),
    "patterns that all match": (
        lambda: grammar_of({"allOf": [{"type": "string", "pattern": f"^.*w{n}.*$"} for n in range(30)]}),
        MEMORY,
    ),
    "one of a thousand properties": (
        lambda: grammar_of({**MANY_OPTIONAL, "additionalProperties": False, "minProperties": 1}),
        MEMORY,
    ),
    "patterns of properties": (
        lambda: grammar_of({"patternProperties": {f"^k{n}x*$": {"type": "null"} for n in range(1000)}}),
        TIME,
    ),
    "a large multiple": (lambda: grammar_of({"type": "integer", "multipleOf": 999_999}), MEMORY),
    "repetitions of repetitions": (lambda: Grammar("regex", "((a{1000}){1000}){1000}"), MEMORY),
    "letters that may be there": (lambda: Grammar("regex", "a?" * 20_000 + "a" * 20_000), MEMORY),
    "a very long word": (lambda: Grammar("regex", "a" * 1_000_000), MEMORY),
    "intersections": (
        lambda: Grammar("grammar", "start: T\nT: " + " & ".join(f"/.*w{n}.*/" for n in range(30)) + "\n"),
        MEMORY,
    ),
    "a chain of rules": (lambda: Grammar("grammar", chain("r", '"a"', 20_000)), "nested too deeply"),
    "a chain of terminals": (lambda: Grammar("grammar", chain("T", '"a"', 20_000)), "nested too deeply"),
    "a chain of references": (lambda: grammar_of(references(12_000)), "nested too deeply"),
}  # fmt: skip


@pytest.mark.parametrize("name", HARD)
def test_hard_grammars_are_refused_within_bounds(name: str, words: Words) -> None:
    make, problem = HARD[name]
    grammar, before = make(), resource.getrusage(resource.RUSAGE_SELF)
    with pytest.raises(GrammarError) as error:
        words.vocabulary.matcher(grammar)
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert str(error.value).startswith(f"{grammar.kind}: ")
    assert str(error.value).endswith(problem)
    assert after.ru_utime - before.ru_utime < 2
    assert after.ru_maxrss - before.ru_maxrss < 64 << 10


def test_large_grammars_that_are_not_hard(words: Words) -> None:
    assert words.allows(Grammar("regex", "|".join(f"word{n}" for n in range(20_000))), "word19999")
    assert words.schema_allows(
        {"enum": [f"a value with number {n}" for n in range(10_000)]}, '"a value with number 9999"'
    )
    optional = {"type": "object", "properties": {f"k{n}": {"type": "null"} for n in range(300)}}
    assert words.schema_allows(optional, '{"k0": null, "k299": null}')
    assert words.allows(Grammar("grammar", chain("r", '"a"', 500)), "a")
    nested: dict[str, Any] = functools.reduce(lambda inner, _: {"items": inner, "type": "array"}, range(60), {})
    assert words.schema_allows(nested, "[" * 30 + "]" * 30)
    many: dict[str, Any] = {"type": "string", "maxLength": 10**9}
    assert words.schema_allows({"type": "array", "items": many, "maxItems": 10**9, "minItems": 1}, '["abc"]')


SMALL = [
    Grammar("regex", r"\([0-9]{3}\) [0-9]{3}-[0-9]{4}"),
    Grammar("regex", ".*" * 300),
    Grammar("grammar", 'start: item{2,400}\nitem: "- " NAME "\\n"\nNAME: /[a-z]{2,10}/\n'),
    grammar_of({"type": "object", "properties": {"a": {"type": "string", "maxLength": 10**9}}, "required": ["a"]}),
]
LARGE = [
    Grammar("regex", "(a{100}){101}"),
    Grammar("regex", "a" * 2001),
    Grammar("grammar", "start: a~1..20000\na: /b/\n"),
    Grammar("grammar", 'start: %json {"type": "null"}\n'),
    grammar_of({"type": "integer", "multipleOf": 999_999}),
    grammar_of({"allOf": [{}]}),
]


def test_what_is_plainly_small_is_not_tried_out(monkeypatch: pytest.MonkeyPatch, words: Words) -> None:
    assert [trial.is_small(grammar) for grammar in [*SMALL, *LARGE]] == [True] * len(SMALL) + [False] * len(LARGE)
    monkeypatch.setattr(trial, "_SCRIPT", trial._SCRIPT.with_name("none.py"))
    for grammar in SMALL[:1] + SMALL[2:]:
        words.vocabulary.matcher(grammar)
    with pytest.raises(GrammarError, match=r"^regex: trying it out failed: .* ended with 2$"):
        words.vocabulary.matcher(LARGE[1])
    monkeypatch.setattr(sys, "executable", "/none/python")
    with pytest.raises(GrammarError, match=r"^regex: cannot be tried out with /none/python: No such file"):
        words.vocabulary.matcher(LARGE[1])


def test_special_tokens_are_known_where_a_grammar_is_tried_out(words: Words) -> None:
    name = next(iter(words.vocabulary._adapter.special_texts.values()))
    words.vocabulary.matcher(Grammar("grammar", f'start: %json {{"type": "null"}} {name} <[0-5]>\n'))
    with pytest.raises(GrammarError, match=r"^grammar: .*unknown special token"):
        words.vocabulary.matcher(Grammar("grammar", 'start: %json {"type": "null"} <|none|>\n'))


# ---- interrupts

SLOW = HARD["patterns of properties"][0]


def test_a_token_stops_the_waiting(words: Words) -> None:
    for token, seconds in ((CancelToken(0.3), 0.3), (CancelToken(), 0.4)):
        if token.deadline is None:
            threading.Timer(seconds, token.cancel).start()
        start = time.monotonic()
        with pytest.raises(Cancelled), token:
            words.vocabulary.matcher(SLOW())
        assert seconds <= time.monotonic() - start < seconds + 1


def children() -> set[str]:
    """Ids of this process's children; other tests may have left multiprocessing's."""
    return {name for path in Path("/proc/self/task").glob("*/children") for name in path.read_text().split()}


def test_an_interrupt_ends_the_waiting(words: Words) -> None:
    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    others = children()
    for _ in range(2):
        threading.Timer(0.3, interrupt).start()
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            words.vocabulary.matcher(SLOW())
        assert time.monotonic() - start < 1.3
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert after.ru_utime - before.ru_utime < trial.SECONDS - 0.5  # the process has not gone on to its end
    assert children() == others  # none is left behind


def test_a_chain_of_rules_takes_more_stack_than_threads_have(words: Words) -> None:
    usual = threading.stack_size()
    assert words.allows(Grammar("grammar", chain("r", '"a"', 6000)), "a")
    assert threading.stack_size() == usual


# ---- states that texts share


def test_a_text_that_fails_leaves_the_others_alone() -> None:
    words, grammar = Words(), Grammar("regex", "b|x(a|aa){1000}")
    failing, waiting = words.vocabulary.matcher(grammar), words.vocabulary.matcher(grammar)
    expected = failing.allowed().tolist()
    failing.take(words.tokenizer.encode("x", add_special=False)[0])
    with pytest.raises(GrammarError, match="lexer error: too many expressions constructed"):
        _go_on(failing, words)
    later = words.vocabulary.matcher(grammar)
    assert waiting.allowed().tolist() == expected
    assert later.allowed().tolist() == expected


def test_a_text_goes_on_where_it_was() -> None:
    words, grammar = Words(), Grammar("regex", "[xy]{40}((a|aa){1000}|bcd)")
    first, second = words.vocabulary.matcher(grammar), words.vocabulary.matcher(grammar)
    x, a, b, c = (words.tokenizer.encode(letter, add_special=False)[0] for letter in "xabc")
    for matcher in [first, second] * 40:
        matcher.take(x)
    second.take(b)
    first.take(a)
    with pytest.raises(GrammarError, match="too many expressions"):
        _go_on(first, words)
    assert second.allowed()[c]
    second.take(c)
    assert not second.complete


def _go_on(matcher: Matcher, words: Words) -> None:
    a = words.tokenizer.encode("a", add_special=False)[0]
    for _ in range(1000):
        matcher.allowed()
        matcher.take(a)


# ---- whatever the library raises


class PanicException(BaseException):
    """As PyO3 names it."""


@pytest.mark.parametrize(
    "error", [PanicException("byte index 100"), ValueError("byte index 100"), OSError("byte index 100")]
)
def test_errors_of_the_library_are_errors_of_the_grammar(error: BaseException) -> None:
    with pytest.raises(GrammarError, match=r"^regex: byte index 100$"), guarded("regex"):
        raise error
    with pytest.raises(KeyboardInterrupt), guarded("regex"):
        raise KeyboardInterrupt


def test_messages_are_bounded() -> None:
    message = (
        'at 1(8): invalid regex "' + "(" * 5000 + '" (in /' + "x" * 500 + "/)\n | picture\nerror: unclosed\x1b group"
    )
    line = reason(message, "regex")
    assert len(line) <= 300
    assert line.startswith('invalid regex "((((')
    assert line.endswith("error: unclosed  group")
    assert reason("a" * 5000, "regex") == "a" * 297 + "..."
    assert reason("too many; consider making x", "schema") == "too many"
    assert reason("too many; consider making x", "grammar") == "too many; consider making x"
    assert reason("", "regex") == "llguidance gives no reason"


@pytest.mark.parametrize(
    ("kind", "source", "message"),
    [
        ("regex", "(", 'regex: invalid regex "(": unclosed group'),
        ("regex", "[a", 'regex: invalid regex "[a": unclosed character class'),
        ("schema", '{"type": "string", "pattern": "[a"}', "schema: invalid pattern: unclosed character class"),
        ("grammar", "start: /(/", 'grammar: at 1(8): invalid regex "(": unclosed group'),
    ],
)
def test_messages_say_what_is_wrong_with_an_expression(kind: Any, source: str, message: str, words: Words) -> None:
    with pytest.raises(GrammarError) as caught:
        words.vocabulary.matcher(Grammar(kind, source))
    assert str(caught.value) == message


# ---- ends of texts, and halves of surrogate pairs


def test_end_tokens_without_a_row_in_the_model_are_passed_over(words: Words) -> None:
    size, end = words.tokenizer.vocab_size, words.ends[0]
    vocabulary = Vocabulary(words.tokenizer, [end, size, size + 7], size)
    matcher = vocabulary.matcher(Grammar("regex", "a?"))
    assert matcher.allowed()[end]
    with pytest.raises(GrammarError, match=rf"needs an end-of-sequence token, the model has no row for {size}$"):
        Vocabulary(words.tokenizer, [size, size + 7], size)


@pytest.mark.parametrize("kind", ["schema", "regex", "grammar"])
def test_halves_of_surrogate_pairs_are_refused(kind: Any) -> None:
    with pytest.raises(GrammarError, match=rf"^{kind}: expected valid Unicode, found '\\ud800' at character 3$"):
        Grammar(kind, "ab\ud800")


def test_the_process_answers_with_the_words_of_the_library(words: Words) -> None:
    assert trial.try_out(LARGE[0], json.dumps({"grammars": [{"lark_grammar": "start: nothing"}]}), 0, {}).startswith(
        'at 1(8): unknown name: "nothing"'
    )
