"""Chat templates that want to get out of the sandbox, or to take all the time or memory there is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tokenizer_makers import byte_level_metadata

from pyml_core.errors import PymlError
from pyml_nlp import ChatOptions
from pyml_nlp.chat import ChatTemplate, renderer
from pyml_nlp.chat.renderer import Renderer
from pyml_nlp.tokenizer import Tokenizer
from pyml_nlp.tokenizer.gguf import load_gguf

VARIABLES: dict[str, Any] = {"messages": [{"role": "user", "content": "text"}], "n": 10, "text": "abc", "items": [1, 2]}

ESCAPES = [
    "{{ messages.__class__ }}",
    "{{ messages.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''.__class__.__base__ }}",
    "{{ messages['__class__'] }}",
    "{{ messages | attr('__class__') }}",
    "{{ text | attr('for' ~ 'mat') | attr('__globals__') }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "{{ ('{0.__cl' ~ 'ass__}').format(messages) }}",
    "{{ ['{0.__class__}'] | map('format', messages) | list }}",
    "{% set f = '{0.__class__}'.format %}{{ f(messages) }}",
    "{{ ('{0.__class__}' | attr('format'))(messages) }}",
    "{{ '{x.__class__}'.format_map({'x': messages}) }}",
    "{{ cycler.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ joiner.__init__.__globals__ }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ namespace(a=1).__class__ }}",
    "{% set x = namespace(__class__=1) %}{{ x }}",
    "{{ lipsum.__globals__ }}",
    "{{ lipsum() }}",
    "{{ raise_exception.__globals__ }}",
    "{{ strftime_now.__globals__['json'] }}",
    "{{ dict.__call__.__globals__ }}",
    "{{ dict.__class__ }}",
    "{{ range.__self__ }}",
    "{{ self.__init__.__globals__ }}",
    "{{ self._TemplateReference__context.environment }}",
    "{{ loop.__class__ }}",
    "{% macro m() %}{% endmacro %}{{ m.__globals__ }}{{ m._environment }}",
    "{% macro m() %}{% endmacro %}{{ m._func.__code__ }}",
    "{% import 'os' as os %}{{ os }}",
    "{% include '/etc/passwd' %}",
    "{% extends 'base' %}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update({'a': 1}) }}",
    "{{ messages[0].pop('role') }}",
    "{{ __import__('os') }}",
    "{{ open('/etc/passwd').read() }}",
    "{{ eval('1') }}",
    "{{ get_flashed_messages.__globals__ }}",
    "{{ (0).from_bytes.__self__ }}",
    "{{ text.encode.__self__.__class__ }}",
    "{{ (messages | map(attribute='__class__')) | list | first }}",
    "{{ messages | groupby('__class__') }}",
    "{{ messages | sum(attribute='__class__') }}",
    "{{ 1 | tojson(default=cycler) }}",
]
"""Each is an error, or writes nothing of Python's own."""

BOMBS = {
    "a long loop": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "a range": "{% for i in range(10**12) %}{% endfor %}",
    "repetition": "{{ 'a' * 10**10 }}",
    "repetition below the limit": "{% set x = 'ab' * 10**8 %}{% set y = x * 10 %}{{ y | length }}",
    "a list": "{{ ([1] * 10**10) | length }}",
    "power": "{{ (10 ** (10 ** 9)) > 1 }}",
    "power of a variable": "{{ (n ** (n ** n)) > 1 }}",
    "squares": "{% set x = namespace(v=3) %}{% for i in range(60) %}{% set x.v = x.v * x.v %}{% endfor %}",
    "doubling": "{% set x = namespace(v='ab') %}{% for i in range(64) %}{% set x.v = x.v ~ x.v %}{% endfor %}",
    "doubled sums": "{% set x = namespace(v='ab') %}{% for i in range(64) %}{% set x.v = x.v + x.v %}{% endfor %}",
    "doubled lists": "{% set x = namespace(v=[1]) %}{% for i in range(64) %}{% set x.v = x.v + x.v %}{% endfor %}",
    "replace": "{% set x = namespace(v='a') %}"
    "{% for i in range(64) %}{% set x.v = x.v | replace('a', 'aa') %}{% endfor %}",
    "center": "{{ 'a' | center(10**10) }}",
    "ljust": "{{ 'a'.ljust(10**10) }}",
    "zfill": "{{ '1'.zfill(10**10) }}",
    "expandtabs": "{{ '\t'.expandtabs(10**10) }}",
    "percent": "{{ '%1000000000d' % 1 }}",
    "percent of a filter": "{{ '%1000000000d' | format(1) }}",
    "format": "{{ '{:1000000000}'.format(1) }}",
    "indent": "{{ ('\n' * 99999) | indent(10**6, blank=True) }}",
    "tojson": "{{ items | tojson(indent=10**10) }}",
    "slices": "{{ items | slice(10**9) | list }}",
    "batches": "{{ items | batch(10**10, 1) | list }}",
    "round": "{{ 1.5 | round(10**9) }}{{ (n ** 5000) | string }}",
    "join": "{{ range(99999) | join('a' * 10**6) }}",
    "wordwrap": "{{ ('a ' * 10**7) | wordwrap(1) }}",
    "striptags": "{{ ('<' * 10**6) | striptags }}{{ ('<!--' * 10**6) | striptags }}",
    "endless recursion": "{% macro m(x) %}{{ m(x + 1) }}{% endmacro %}{{ m(1) }}",
    "recursion without an end": "{% macro m(x) %}{% for i in range(9) %}{{ m(x) }}{% endfor %}{% endmacro %}{{ m(1) }}",
    "a recursive loop": "{% for i in items recursive %}{{ loop(items) }}{% endfor %}",
    "output": "{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}",
    "output of nothing much": "{% for i in range(99999) %}{% for j in range(99) %}a{% endfor %}{% endfor %}",
    "a nested list": "{% set x = namespace(v=[]) %}"
    "{% for i in range(9999) %}{% set x.v = [x.v] %}{% endfor %}{{ x.v }}",
    "parentheses": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "minus signs": "{{ " + "-" * 100_000 + "1 }}",
    "nested blocks": "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    "a long constant": "{{ " + "'a' * 10**9 ~ " * 50 + "'' }}",
    "permutations": "{% for a in range(999) %}{{ range(99999) | sort | length }}{% endfor %}",
    "random": "{% for i in range(99999) %}{% set x = range(99999) | list | random %}{% endfor %}",
}  # fmt: skip
"""Each is an error within seconds, whatever thread asks for it."""


@pytest.fixture(scope="module")
def render() -> Iterator[Renderer]:
    made = Renderer()
    yield made
    made.close()


@pytest.mark.parametrize("source", ESCAPES)
def test_escapes(source: str, render: Renderer) -> None:
    try:
        text = render.render(source, VARIABLES)
    except PymlError as error:
        text = str(error)
    assert not any(word in text for word in ("<class", "<module", "<function", "root:", "uid=", "\n")), text


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(name: str, render: Renderer) -> None:
    start = time.monotonic()
    with pytest.raises(PymlError, match=r"^chat template: [^\n]{3,600}$"):
        render.render(BOMBS[name], VARIABLES)
    assert time.monotonic() - start < 30  # the limit is one of processor time; this is for a machine that is busy
    assert render.render("{{ text }}", VARIABLES) == "abc"


def test_limits_are_named(render: Renderer) -> None:
    for name, reason in (
        ("a long loop", "it takes more than 1 s of processor time"),
        ("repetition", "it needs more memory than a template may have"),
        ("a recursive loop", "it is nested too deeply"),
        ("output", "it writes more than 2097152 characters"),
    ):
        with pytest.raises(PymlError) as caught:
            render.render(BOMBS[name], VARIABLES)
        assert str(caught.value) == f"chat template: {reason}"


def test_other_threads_and_signals(render: Renderer) -> None:
    """The limits do not stand on the main thread or on its handlers of signals."""
    errors: list[BaseException] = []

    def work() -> None:
        try:
            render.render(BOMBS["a long loop"], VARIABLES)
        except PymlError as error:
            errors.append(error)

    before = signal.getsignal(signal.SIGPROF)
    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [str(error) for error in errors] == ["chat template: it takes more than 1 s of processor time"] * 2
    assert signal.getsignal(signal.SIGPROF) == before


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ raise_exception('Roles must alternate') }}", "chat template: Roles must alternate"),
        ("{{ raise_exception('a\n\x1b[31m b' ~ '\u202e') }}", "chat template: a  [31m b "),
        ("{{ raise_exception(1) }}", "chat template: 1"),
        ("{% for %}", "chat template: line 1: Expected an expression, got 'end of statement block'"),
        ("{{ messages[9].content.x }}", "chat template: UndefinedError: list object has no element 9"),
        ("{{ 1 + 'a' }}", "chat template: TypeError: unsupported operand type(s) for +: 'int' and 'str'"),
        ("{{ raise_exception('a' * 9999) }}", "chat template: " + "a" * 500),
    ],
)
def test_messages(source: str, message: str, render: Renderer) -> None:
    with pytest.raises(PymlError) as caught:
        render.render(source, VARIABLES)
    assert str(caught.value) == message


def test_it_is_given_no_secrets(render: Renderer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    other = Renderer()
    other.start()
    assert other._process is not None
    other.render("a", {})
    with open(f"/proc/{other._process.pid}/environ", "rb") as file:  # noqa: PTH123
        assert b"HF_TOKEN" not in file.read()
    other.close()


def test_it_is_started_again(render: Renderer) -> None:
    render.render("a", {})
    assert render._process is not None
    number = render._process.pid
    os.kill(number, signal.SIGKILL)
    render._process.wait()
    assert render.render("b", {}) == "b"
    assert render._process.pid != number


def test_after_a_fork(render: Renderer) -> None:
    render.render("a", {})
    assert render._process is not None
    number = render._process.pid
    child = os.fork()
    if child == 0:
        try:
            same = render.render("c", {}) == "c" and render._process.pid != number
            render.close()
        except BaseException:
            same = False
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert render.render("d", {}) == "d"
    assert render._process.pid == number


def test_a_stopped_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renderer, "WALL_SECONDS", 0.5)
    stopped = Renderer()
    stopped.start()
    assert stopped._process is not None
    os.kill(stopped._process.pid, signal.SIGSTOP)
    with pytest.raises(PymlError, match=r"chat template: it did not end within 0\.5 s"):
        stopped.render("a" * 1_000_000, {})
    stopped.close()


def test_no_process_is_left() -> None:
    made = Renderer()
    made.render("a", {})
    assert made._process is not None
    process = made._process
    del made
    assert process.returncode is not None


# ---- input of a template


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    metadata = byte_level_metadata("gpt-2")
    return load_gguf({**metadata, "tokenizer.chat_template": "{{ messages[0].content }}"}, "test.gguf")


@pytest.fixture(scope="module")
def template(tokenizer: Tokenizer) -> Iterator[ChatTemplate]:
    made = ChatTemplate(tokenizer, "test")
    yield made
    made.close()


def deep(levels: int) -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], r"messages: expected a text or a list of messages, got \[\]"),
        (5, "messages: expected a text or a list of messages, got 5"),
        (["Hi"], r"messages\[0\]: expected a mapping with 'role' and 'content', got 'Hi'"),
        ([{"content": "Hi"}], r"messages\[0\]: role: expected a word such as 'user', got None"),
        ([{"role": "user", "content": b"Hi"}], r"messages\[0\]\.content: expected text, .*got b'Hi'"),
        ([{"role": "user", "content": {1: 2}}], r"messages\[0\]\.content: expected keys of type str, got 1"),
        ([{"role": "user", "content": deep(200)}], "expected at most 100 levels, got more"),
        ([{"role": "user", "content": "".join(map(chr, range(0xFDD0, 0xFDF0)))}], "noncharacters"),
        ([{"role": "user", "content": "\ud800"}], "lone surrogate"),
        (b"Hi", "messages: expected a text or a list of messages, got b'Hi'"),
        (
            [{"role": [10**6000], "content": "x"}],
            r"\[0\]: role: expected a word .*, got \[an integer of about 6001 digits\]",
        ),
        (
            [{"role": deep(9000), "content": "x"}],
            r"\[0\]: role: expected a word such as 'user', got \[\[\[\.\.\.\]\]\]",
        ),
        ([deep(9000)], r"messages\[0\]: expected a mapping with 'role' and 'content', got \[\[\[\.\.\.\]\]\]"),
        (
            [{"role": "user", "content": [{"n": -(10**6000)}]}],
            r"messages\[0\]\.content\[0\]\.n: expected an integer of at most 2048 bits, got an integer of about 6001",
        ),
        (
            [{"role": "user", "content": {"a" * 999: {"b\n" * 99: b""}}}],
            r"^messages\[0\]\.content\.a+\.\.\.: expected text, num",
        ),
    ],
    ids=range(15),
)
def test_bad_messages(messages: Any, message: str, template: ChatTemplate) -> None:
    with pytest.raises(PymlError, match=message) as caught:
        template.ids(messages)
    assert len(str(caught.value)) < 250
    assert "\n" not in str(caught.value)


def test_too_much_to_render(template: ChatTemplate) -> None:
    part = {"type": "text", "text": "a"}
    for content, message in (
        ("x" * (17 << 20), "messages: expected at most 16777216 characters, got more"),
        ([part] * 200_000, "messages: expected at most 524288 texts, got more"),
        ("x" * (3 << 20), "chat template: it writes more than 2097152 characters"),
    ):
        start = time.process_time()
        with pytest.raises(PymlError, match=f"^{message}$"):
            template.ids([{"role": "user", "content": content}])
        assert time.process_time() - start < 2


def test_numbers_of_messages(template: ChatTemplate) -> None:
    """NumPy's are as good as Python's; an integer may be large."""
    plain = [{"role": "tool", "content": [1, 0.5, True, 2**2047, {"n": None}]}]
    same = [{"role": "tool", "content": (np.int8(1), np.float32(0.5), np.True_, 2**2047, {"n": None})}]
    assert template.ids(same) == template.ids(plain)


def test_bad_options(template: ChatTemplate) -> None:
    for options, message in (
        ({"tools": "x"}, "tools must be a list, got 'x'"),
        ({"tools": [5]}, r"tools\[0\]: expected a mapping, got 5"),
        ({"documents": [None]}, r"documents\[0\]: expected a mapping, got None"),
        ({"variables": {"messages": []}}, "variables: messages is an argument of its own"),
        (
            {"variables": {"x": object()}},
            r"variables\.x: expected text, number, list or mapping, got <object object at",
        ),
        ({"template": "rag"}, "chat template: expected one of default, got 'rag'"),
        ({"template": []}, r"template must be a text, got \[\]"),
        ({"tools": b"x"}, "tools must be a list, got b'x'"),
        ({"variables": 5}, "variables must be a mapping of names and values, got 5"),
        ({"variables": {5: 1}}, "variables: expected keys of type str, got 5"),
        (
            {"variables": {"x": 10**6000}},
            r"variables\.x: expected an integer of at most 2048 bits, got an integer of about",
        ),
        ({"variables": {"x": deep(9000)}}, r"variables\.x\[0\]\[0\].*\.\.\.: expected at most 100 levels, got more"),
        ({"add_generation_prompt": 1}, "add_generation_prompt must be True or False, got 1"),
        ({"continue_final_message": "no"}, "continue_final_message must be True or False, got 'no'"),
    ):
        with pytest.raises(PymlError, match=message):
            template.ids("Hi", **options)


def test_one_of_the_marks_in_a_message(template: ChatTemplate, tokenizer: Tokenizer) -> None:
    for text in ("\ufdd0 <|endoftext|> \ufdd1", "\\ufdd0 <|endoftext|> \\ufdd1", "\\ufdd0", "\\\\ufdd0 \\uFDD0"):
        assert tokenizer.decode(template.ids(text), skip_special=False) == template.render(text) == text
        assert tokenizer.eos_ids[0] not in template.ids(text)


def test_under_a_limit_of_its_own() -> None:
    """A smaller address space than it would give itself, as in some containers."""
    code = "from pyml_nlp.chat.renderer import Renderer; print(Renderer().render('{{ 1 + 1 }}', {}))"
    done = subprocess.run(
        ["sh", "-c", 'ulimit -v 400000; exec "$@"', "sh", sys.executable, "-c", code], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr


def test_names_that_spell_a_control_token_stay(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values of messages and variables are protected, their names are not."""
    monkeypatch.setitem(tokenizer.__dict__, "control_tokens", {"ab": 97, "variables": 98})
    made = ChatTemplate(tokenizer, "test")
    monkeypatch.setattr(made, "source", lambda name, tools: "{{ messages[0].content }}|{{ cab }}")
    try:
        prompt = made.prompt([{"role": "user", "content": "at variables"}], ChatOptions(variables={"cab": "tab"}))
    finally:
        made.close()
    assert prompt.text == "at variables|tab"
    assert len(prompt.boundaries) == 4
