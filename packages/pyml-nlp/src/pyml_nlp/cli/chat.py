"""The options of ``pyml-infer`` about chat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from .options import F, Option, invalid, utf8

if TYPE_CHECKING:
    from ..language_model import LanguageModel


@dataclass(frozen=True)
class ChatOptions:
    """How prompts become chats.

    Attributes:
        system: a system message to begin with.
        tools: JSON schemas of functions that the model may call.
        variables: what else the template is to know.
    """

    system: str | None = None
    tools: list[dict[str, Any]] | None = None
    variables: dict[str, Any] = field(default_factory=dict)

    def ids(self, lm: LanguageModel, prompt: str) -> list[int]:
        """A prompt as what a user says."""
        messages = [{"role": "user", "content": prompt}]
        if self.system is not None:
            messages.insert(0, {"role": "system", "content": self.system})
        return lm.chat_ids(messages, tools=self.tools, variables=self.variables)


def add_chat_options(function: F) -> F:
    """--chat, --system, --interactive, --tools and --chat-arg."""
    for decorator in reversed((
        click.option(
            "--chat", is_flag=True, cls=Option, heading="Chat", help="Answer the prompt, by the model's chat template."
        ),
        click.option(
            "--interactive", is_flag=True, cls=Option, heading="Chat", help="A chat on the terminal; /help in it."
        ),
        click.option("--system", metavar="TEXT", cls=Option, heading="Chat", help="A system message to begin with."),
        click.option(
            "--tools", metavar="FILE", cls=Option, heading="Chat", help="A JSON list of functions that it may call."
        ),
        click.option(
            "--chat-arg", metavar="NAME=VALUE", multiple=True, cls=Option, heading="Chat",
            help="A variable of the template, such as enable_thinking=false.",
        ),
    )):  # fmt: skip
        function = decorator(function)
    return function


def check_chat(wanted: bool, system: str | None, tools: str | None, arguments: Sequence[str]) -> ChatOptions | None:
    """What :func:`add_chat_options` gave, checked; None if there is to be no chat."""
    for name, given in (
        ("--system <TEXT>", system is not None),
        ("--tools <FILE>", tools is not None),
        ("--chat-arg <NAME=VALUE>", arguments),
    ):
        if given and not wanted:
            raise click.UsageError(f"the argument '{name}' requires '--chat' or '--interactive'")
    if not wanted:
        return None
    return ChatOptions(
        None if system is None else utf8("--system", system),
        None if tools is None else _tools(tools),
        dict(map(_variable, arguments)),
    )


def _tools(path: str) -> list[dict[str, Any]]:
    from pyml_core.errors import PymlError

    from ..text_files import parse_json, read_text

    text = read_text(path)
    try:
        tools = parse_json(text)
    except ValueError as error:
        raise PymlError(f"{path}: expected a JSON list of functions: {error}") from None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise PymlError(f"{path}: expected a JSON list of functions, each an object")
    return tools


def _variable(argument: str) -> tuple[str, Any]:
    """NAME=VALUE: the value is JSON, or else a text."""
    from ..text_files import NoJSON, parse_json

    name, sign, value = utf8("--chat-arg", argument).partition("=")
    if not sign or not name.isidentifier():
        raise invalid(argument, "--chat-arg", "NAME=VALUE")
    try:
        return name, parse_json(value)
    except NoJSON:
        return name, value
    except ValueError as error:  # it is, but more of it than can be read
        raise invalid(argument, "--chat-arg", str(error).removeprefix("expected ")) from None
