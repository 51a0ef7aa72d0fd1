"""Targets of a user's requests: lines of batch files, messages, tools and template variables, chat templates."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import random
from typing import Any

import pyml_nlp
from tests.fuzz.changes import change, nested, noisy, odd
from tests.fuzz.shared import TinyModelDoor, size_of

LINE: dict[str, Any] = {
    "prompt": "the cat",
    "max_tokens": 4,
    "temperature": 0.9,
    "top_k": 5,
    "top_p": 0.9,
    "min_p": 0.1,
    "typical_p": 0.9,
    "seed": 3,
    "stop": ["x", "yy"],
    "stop_ids": [5],
    "logit_bias": {"5": -1.5, "7": 2},
    "frequency_penalty": 0.5,
    "presence_penalty": 0.1,
    "repetition_penalty": 1.2,
    "logprobs": 2,
    "sample_index": 1,
    "overflow": "shift",
    "n_keep": 1,
    "order": ["top_p", "temperature"],
    "include_stop": True,
    "id": "a",
    "regex": "[ab]+",
    "schema": {"type": "null"},
}


class InternalError(Exception):
    """A command reported an exception that is not pyml's own."""


class BatchLines(TinyModelDoor):
    """Lines of a ``.jsonl`` batch, through the command that runs them."""

    name = "batch"

    def make(self, rng: random.Random) -> Any:
        """The text of a batch file; characters that UTF-8 lacks are written as they are."""
        lines = []
        for _ in range(rng.choice([1, 1, 2])):
            line = {key: copy.deepcopy(LINE[key]) for key in LINE if key == "prompt" or rng.random() < 0.3}
            for _ in range(rng.choice([0, 1, 1, 2])):
                line[rng.choice([*LINE, "grammar", "messages"])] = odd(rng)
            lines.append(json.dumps(line))
        text = "\n".join(lines)
        return noisy(rng, text) if rng.random() < 0.1 else text

    def run(self, given: Any) -> int:
        """Run the file by ``pyml-infer --batch-file``, with the model that is loaded already."""
        from pyml_nlp.cli import main

        path, output = self.folder / "case.jsonl", self.folder / "texts.jsonl"
        path.write_text(given, encoding="utf-8", errors="surrogatepass")
        output.unlink(missing_ok=True)
        command = [str(self.folder), "-q", "--json", "--batch-file", str(path), "--output", str(output)]
        said = io.StringIO()
        load, close = pyml_nlp.load, pyml_nlp.LanguageModel.close
        logger = logging.getLogger("pyml")  # which the command sets up for itself
        handlers, propagate, level = logger.handlers, logger.propagate, logger.level
        lm = self.lm
        pyml_nlp.load = lambda *_, **__: lm
        pyml_nlp.LanguageModel.close = lambda _: None  # type: ignore[method-assign, assignment]
        try:
            with (
                io.TextIOWrapper(io.BytesIO()) as out,
                contextlib.redirect_stderr(said),
                contextlib.redirect_stdout(out),
            ):
                main.run("pyml-infer", [*command, "--max-tokens", "3", "--timeout", "5"])
        finally:
            pyml_nlp.load, pyml_nlp.LanguageModel.close = load, close  # type: ignore[method-assign]
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
        if "internal error" in said.getvalue() or "Warning" in said.getvalue():
            raise InternalError(said.getvalue()[:200])
        for line in said.getvalue().splitlines():
            if len(line) > 1500:
                raise InternalError(f"a line of {len(line)} characters: {line[:80]}")
        return len(given)


MESSAGES: list[dict[str, Any]] = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "ho", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]},
    {"role": "tool", "content": "r"},
]
HUGE = "an integer of 5000 digits"
"""Stands for itself: JSON text cannot hold such a number."""

ODD_CONTENT: list[Any] = [
    float("nan"),
    HUGE,
    "\ud800",
    "\0",
    "<|endoftext|>" * 3,
    ["a", {"type": "text", "text": "t"}],
    [{"type": "image"}],
]


class MessageLists(TinyModelDoor):
    """Messages, and variables of templates, from Python."""

    name = "messages"

    def make(self, rng: random.Random) -> Any:
        """Messages, variables, and how they are used."""
        messages: Any = copy.deepcopy(MESSAGES)
        for _ in range(rng.choice([1, 2, 3])):
            change(rng, messages)
        if messages and isinstance(messages[0], dict) and rng.random() < 0.4:
            key = rng.choice(["content", "x", "role"])
            messages[0][key] = rng.choice([nested(rng, rng.choice([5, 99, 101, 500])), *ODD_CONTENT])
        variables = rng.choice(
            [None, None, {"x": odd(rng)}, {"messages": 1}, {"": 1}, {"a b": 1}, {"x": nested(rng, 300)}]
        )
        return [messages, variables, rng.random() < 0.3]

    def run(self, given: Any) -> int:
        """Make token ids of the messages."""
        messages, variables, go_on = given
        if isinstance(messages, list) and messages and isinstance(messages[0], dict):
            messages[0].update({key: 10**5000 for key, value in messages[0].items() if value == HUGE})
        self.lm.chat_ids(messages, variables=variables, continue_final_message=go_on)
        return size_of(given)


TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}},
    }
]
ARGUMENTS = [
    "1",
    "true",
    "[" * 3000,
    "[" * 800 + "]" * 800,
    "9" * 5000,
    "NaN",
    "text",
    '{"a": [1]}',
    '"\\ud800"',
    "1e999",
]


class ToolFiles(TinyModelDoor):
    """Files of tools, and ``--chat-arg`` variables, through the command line's own readers."""

    name = "tools"

    def make(self, rng: random.Random) -> Any:
        """The text of a file, and a variable."""
        tree: Any = {"tools": copy.deepcopy(TOOLS)}
        for _ in range(rng.choice([1, 2])):
            change(rng, tree)
        text = json.dumps(tree.get("tools", tree))
        return [noisy(rng, text) if rng.random() < 0.3 else text, rng.choice(ARGUMENTS)]

    def run(self, given: Any) -> int:
        """Read both and make a prompt of them."""
        import click

        from pyml_nlp.cli import chat_options

        path = self.folder / "tools.json"
        path.write_text(given[0], encoding="utf-8", errors="surrogatepass")
        try:
            asked = chat_options.check_chat(
                {
                    "chat": True,
                    "interactive": False,
                    "system": None,
                    "tools": str(path),
                    "chat_arg": (f"x={given[1]}",),
                }
            )
        except click.UsageError as error:
            if not error.format_message().isprintable():
                raise InternalError(error.format_message()[:80]) from None
            return size_of(given)
        if asked is not None:
            self.lm.chat_ids(asked.messages("hello"), asked.options)
        return size_of(given)


PIECES = [
    "{{ messages }}",
    "{% for m in messages %}",
    "{% endfor %}",
    "{% if x %}",
    "{% else %}",
    "{% endif %}",
    "{{ m.content }}",
    "{{ '%s' % 3 }}",
    "{{ 'a' * 10**9 }}",
    "{{ range(10**9) | list }}",
    "{% set x = namespace(v=1) %}",
    "{% set x.v = x.v * 99999999 ** 99 %}",
    "{% macro f(a) %}",
    "{% endmacro %}",
    "{{ f(f) }}",
    "{% raw %}",
    "{# ",
    " #}",
    "{{ messages | map(attribute='role') | join }}",
    "{{ 'x' | center(10**8) }}",
    "{% filter upper %}",
    "{% call f(2) %}",
    "{% break %}",
    "{% continue %}",
    "{% include 'x' %}",
    "{{ x.__class__ }}",
    "{{ messages | tojson(indent=9999) }}",
    "{{ strftime_now('%' * 99999) }}",
    "{{ '\\ud800' }}",
    "{{ raise_exception('x' * 10**6) }}",
    "{% generation %}",
    "{% endgeneration %}",
    "{{ (1).__add__ }}",
    "{{ 10 ** 400 }}",
    "{{ 1 / 0 }}",
    "{% set ns = namespace() %}",
    "\0",
    "\ud800",
    "{%",
    "%}",
    "{{",
    "}}",
    "{%- ",
    " -%}",
    "é",
    "{{ '\\x1b[31m' }}",
    "{{ 'a' | replace('', 'b' * 99999) }}",
    "{{ messages | pprint }}",
    "{{ ('9' * 5000) | int }}",
    "{{ messages[0].items() | list }}",
    "{% for i in range(999) %}",
]


class ChatTemplates(TinyModelDoor):
    """Chat templates made of pieces, bombs among them."""

    name = "templates"

    def make(self, rng: random.Random) -> Any:
        """A template."""
        return "".join(rng.choice(PIECES) for _ in range(rng.choice([1, 2, 3, 5, 8, 20, 200])))

    def run(self, given: Any) -> int:
        """Render it in the process that is made for templates."""
        from pyml_nlp.chat.renderer import Renderer

        if not hasattr(self, "_renderer"):
            self._renderer = Renderer()
        variables = {"messages": [{"role": "user", "content": "hi"}], "x": 3, "m": {"content": "c"}}
        self._renderer.render(given, variables)
        return 64 << 20  # a template's text may be large
