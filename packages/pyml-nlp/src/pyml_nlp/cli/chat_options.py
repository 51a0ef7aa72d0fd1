"""The click options for chat."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from .options import F, Option, invalid, utf8

if TYPE_CHECKING:
    from .arguments import ChatArguments, TemplateArguments
    from .task import Chat


def add_chat_options(function: F) -> F:
    """--chat, --interactive and :func:`template_options`."""
    for decorator in reversed((
        click.option(
            "--chat", is_flag=True, cls=Option, heading="Chat", help="Answer the prompt, by the model's chat template."
        ),
        click.option(
            "--interactive", is_flag=True, cls=Option, heading="Chat", help="A chat on the terminal, like pyml chat."
        ),
        template_options("Chat"),
    )):  # fmt: skip
        function = decorator(function)
    return function


def template_options(heading: str) -> Callable[[F], F]:
    """--system, --tools and --chat-arg."""

    def add(function: F) -> F:
        for decorator in reversed((
            click.option(
                "--system", metavar="TEXT", cls=Option, heading=heading, help="A system message to begin with."
            ),
            click.option(
                "--tools", metavar="FILE", cls=Option, heading=heading, help="A JSON list of functions to call."
            ),
            click.option(
                "--chat-arg", metavar="NAME=VALUE", multiple=True, cls=Option, heading=heading,
                help="A variable of the template, such as enable_thinking=false.",
            ),
        )):  # fmt: skip
            function = decorator(function)
        return function

    return add


def check_chat(values: ChatArguments) -> Chat | None:
    """The chat that was asked for; None: prompts are texts to continue.

    Raises:
        UsageError: an option without a chat, or an invalid value. PymlError: a file of tools that cannot be read.
    """
    wanted = values["chat"] or values["interactive"]
    for name, given in (
        ("--system <TEXT>", values["system"] is not None),
        ("--tools <FILE>", values["tools"] is not None),
        ("--chat-arg <NAME=VALUE>", values["chat_arg"]),
    ):
        if given and not wanted:
            raise click.UsageError(f"the argument '{name}' requires '--chat' or '--interactive'")
    return chosen_chat(values) if wanted else None


def chosen_chat(values: TemplateArguments) -> Chat:
    """The chat of these options.

    Raises:
        UsageError: an invalid value. PymlError: a file of tools that cannot be read.
    """
    system, tools = values["system"], values["tools"]
    system = None if system is None else utf8("--system", system)
    schemas = None if tools is None else _tools(tools)
    variables = dict(map(_variable, values["chat_arg"]))
    from ..options.chat import ChatOptions
    from .task import Chat

    return Chat(system, ChatOptions(tools=schemas, variables=variables))


def chat_model(source: str | None) -> str | None:
    """The model to chat with: of the command line, else None if ``PYML_MODEL`` names it, else the default to chat with.

    Raises:
        ModelNotFoundError: no model is named, and the default is not installed.
    """
    if source is not None or os.environ.get("PYML_MODEL"):
        return source
    from ..default_model import default_chat_model

    return str(default_chat_model())


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
    """NAME=VALUE, where the value is JSON, else a text."""
    from ..text_files import NoJSON, parse_json

    name, sign, value = utf8("--chat-arg", argument).partition("=")
    if not sign or not name.isidentifier():
        raise invalid(argument, "--chat-arg", "NAME=VALUE")
    try:
        return name, parse_json(value)
    except NoJSON:
        return name, value
    except ValueError as error:  # JSON, but too large
        raise invalid(argument, "--chat-arg", str(error).removeprefix("expected ")) from None
