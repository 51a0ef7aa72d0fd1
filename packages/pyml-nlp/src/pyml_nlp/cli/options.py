"""Option types and checks that the commands share. Messages follow those of clap."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from ..errors import ArgumentError

_FLAGS = {"adapters": "--lora", "order": "--sampler-order", "context_length": "--context-len", "stop_ids": "--stop-id"}
"""Flags that are not called as the option in Python."""

F = TypeVar("F", bound=Callable[..., Any])

DTYPES = ("auto", "f32", "bf16", "q8_0", "q4_0")
KV_DTYPES = ("auto", "f32", "f16", "int8")
BASIC = "Options"
"""The heading of the options that ``--help`` explains."""

COMMANDS = (
    "infer",
    "chat",
    "serve",
    "batch",
    "embed",
    "list",
    "pull",
    "pack",
    "rm",
    "bench",
    "eval",
    "inspect",
    "trace",
    "audit",
)
"""All commands of ``pyml``, each of the module of its name."""

_ALL = "pyml.help_all"
_EAGER = {"-h", "--help", "--help-all", "--version"}  # which must work with any configuration file
SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Option(click.Option):
    """An option for later: ``--help`` names it under a heading of its own, ``--help-all`` explains it too."""

    def __init__(self, *args: Any, heading: str = BASIC, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.heading = heading


class Command(click.Command):
    """A command whose ``--help`` is one screen: options with a heading are named there and explained in ``--help-all``.

    Headings come in the order in which they first occur.
    """

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The command's options, ``--version``, ``--help`` and, if there are options for later, ``--help-all``."""
        *params, show = super().get_params(ctx)
        params += [show_version(), show]
        if any(getattr(param, "heading", BASIC) != BASIC for param in params):
            params.append(_eager("--help-all", _show_all, "Explain all options."))
        return params

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the command line, with the defaults of the configuration file."""
        if ctx.command.name in COMMANDS and not _EAGER & set(args):
            from .config import apply_config

            apply_config(ctx, COMMANDS)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the groups of options."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None:
                groups.setdefault(getattr(param, "heading", BASIC), []).append(record)
        everything = ctx.meta.get(_ALL, False)
        for heading, records in groups.items():
            if heading == BASIC or everything:
                with formatter.section(heading):
                    formatter.write_dl(records)
        more = {heading: records for heading, records in groups.items() if heading != BASIC}
        if more and not everything:
            with formatter.section("More options (--help-all explains them)"):
                for heading, records in more.items():
                    names = " ".join(name.split()[0] for name, _ in records)
                    lines = textwrap.wrap(f"{heading}: {names}", formatter.width - 4, break_on_hyphens=False)
                    formatter.write("".join(f"  {line}\n" for line in lines))


def show_version() -> click.Option:
    """The option ``--version``."""
    return _eager("--version", _show_version, "Show the versions and exit.")


def _eager(name: str, callback: Callable[[click.Context, click.Parameter, bool], None], text: str) -> click.Option:
    return click.Option([name], is_flag=True, is_eager=True, expose_value=False, callback=callback, help=text)


def _show_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        from .version import version

        click.echo(version())
        ctx.exit()


def _show_all(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta[_ALL] = True
        click.echo(ctx.get_help(), color=ctx.color)
        ctx.exit()


def parsed(parse: Callable[[str], Any], expected: str) -> Callable[..., Callable[[F], F]]:
    """``click.option`` for values that ``parse`` accepts; any other value is a usage error that names it."""

    def callback(_: click.Context, param: click.Parameter, value: str | None) -> Any:
        try:
            return None if value is None else parse(value)
        except (ValueError, KeyError):
            raise invalid(value, param.opts[-1], expected) from None
        except OverflowError as error:
            raise invalid(value, param.opts[-1], f"{expected} {error}") from None

    def option(*names: str, **attributes: Any) -> Callable[[F], F]:
        return click.option(*names, type=str, callback=callback, cls=Option, **attributes)

    return option


def invalid(value: object, name: str, expected: str) -> click.UsageError:
    """The usage error for an invalid value of an option."""
    from pyml_core.errors import quoted

    return click.UsageError(f"invalid value {quoted(value)} for '{name}': expected {expected}")


def whole_number(text: str) -> int:
    """The number. ValueError: not a whole number. OverflowError: larger than any option allows."""
    found = int(text)
    if abs(found) >= 1 << 64:
        raise OverflowError("of at most 64 bits")
    return found


integer = parsed(whole_number, "a whole number")
number = parsed(float, "a number")


def choice(*choices: str) -> Callable[..., Callable[[F], F]]:
    """``click.option`` for one of some words."""
    option = parsed(dict(zip(choices, choices, strict=True)).__getitem__, f"one of {', '.join(choices)}")

    def complete(_: click.Context, param: click.Parameter, start: str) -> list[str]:
        return [name for name in choices if name.startswith(start)]

    return partial(option, shell_complete=complete)


def complete_files(_: click.Context, param: click.Parameter, start: str) -> list[CompletionItem]:
    """Let the shell complete the name of a file."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(start, type="file")]


def model_options(function: F) -> F:
    """MODEL, --safetensors, --dtype and --threads."""
    for decorator in reversed((
        click.argument("model", required=False, metavar="[MODEL]", shell_complete=complete_files),
        click.option("--safetensors", metavar="ID_OR_DIR", help="A Hugging Face folder or hub id; the same as MODEL.",
                     shell_complete=complete_files),
        choice(*DTYPES)(
            "--dtype", default="auto", metavar="TYPE",
            help=f"Weights in memory: {', '.join(DTYPES)}. auto: as stored in GGUF, q8_0 from safetensors.",
        ),
        integer("-t", "--threads", metavar="N", help="Worker threads. [default: as many as suit]"),
    )):  # fmt: skip
        function = decorator(function)
    return function


def memory_options(function: F) -> F:
    """--lora, --full-head, --kv-dtype and --allow-unknown-keys."""
    for decorator in reversed((
        click.option(
            "--lora", multiple=True, metavar="[NAME=]PATH[:SCALE]", cls=Option, heading="Advanced",
            shell_complete=complete_files,
            help="A LoRA adapter: a PEFT folder or a GGUF file. pyml serve takes several, each a model of its own.",
        ),
        click.option(
            "--full-head", is_flag=True, cls=Option, heading="Advanced",
            help="Compute all logits of every step. [default: those that can win, where they alone decide]",
        ),
        choice(*KV_DTYPES)(
            "--kv-dtype", default="auto", metavar="TYPE", heading="Advanced",
            help=f"Keys and values in memory: {', '.join(KV_DTYPES)}. auto: int8 with quantised weights, else 16 bits.",
        ),
        click.option(
            "--allow-unknown-keys", is_flag=True, cls=Option, heading="Advanced",
            help="Ignore unknown keys of the model's configuration that may change its results, with a warning.",
        ),
    )):  # fmt: skip
        function = decorator(function)
    return function


def log_options(function: F) -> F:
    """-v, -vv and -q."""
    function = click.option("-q", "--quiet", count=True, help="Nothing on stderr but errors.")(function)
    return click.option(
        "-v", "--verbose", count=True, help="-v: what is done, and how long it takes. -vv: of every part."
    )(function)


def verbosity(verbose: int, quiet: int) -> int:
    """-1, 0, 1 or 2, for :func:`pyml_nlp.logs.configure_cli`."""
    exclusive({"--verbose": verbose, "--quiet": quiet})
    return -1 if quiet else min(verbose, 2)


def configure_logs(level: int) -> None:
    """Set up the logs on stderr; usage error for an invalid PYML_LOG."""
    from .. import logs

    try:
        logs.configure_cli(level)
    except logs.LogSpecError as error:
        raise click.UsageError(str(error)) from None


def exclusive(options: Mapping[str, object]) -> None:
    """Usage error if two of these options were given."""
    given = [name for name, value in options.items() if value]
    if len(given) > 1:
        raise click.UsageError(f"the argument '{given[0]}' cannot be used with '{given[1]}'")


def check_model(model: str | None, safetensors: str | None, threads: int | None) -> str | None:
    """The model to load, after a check of the values of :func:`model_options`."""
    ctx = click.get_current_context(silent=True)
    if model is not None and safetensors is not None and ctx is not None:
        from .config import is_configured

        if is_configured(ctx, "model"):
            model = None
        elif is_configured(ctx, "safetensors"):
            safetensors = None
    exclusive({"[MODEL]": model is not None, "--safetensors <ID_OR_DIR>": safetensors is not None})
    for name, value in (("MODEL", model), ("--safetensors", safetensors)):
        if value == "":
            raise click.UsageError(f"invalid value '' for '{name}': expected a file, a folder or a hub id")
    positive({"--threads": threads})
    return safetensors if model is None else model


def usage_error(error: ArgumentError) -> click.UsageError:
    """The usage error for an option's value that is invalid in Python too."""
    name = _FLAGS.get(error.name) or f"--{error.name.replace('_', '-')}"
    return click.UsageError(f"{name} {error.problem}")


def positive(options: Mapping[str, float | None]) -> None:
    """Usage error if one of these was given and is not above 0."""
    for name, value in options.items():
        if value is not None and not value > 0:
            zero = "0.0" if isinstance(value, float) else "0"
            raise click.UsageError(f"{name} must be > {zero}, got {value:g}")


def utf8(name: str, text: str) -> str:
    """The text of an argument, which is UTF-8 whatever the locale says; usage error if it is not."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:  # bytes that the locale could not decode
        pass
    try:
        return os.fsencode(text).decode()
    except UnicodeError:
        raise click.UsageError(f"invalid value for '{name}': expected UTF-8") from None


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a stream, which may be closed, is a terminal."""
    return stream is not None and stream.isatty()


def read_stdin() -> str:
    """The text of stdin, nothing if that is closed; usage error if it is too large, or not UTF-8."""
    from ..text_files import decoded, read_bounded

    if sys.stdin is None:
        return ""
    try:
        return decoded(read_bounded(sys.stdin.buffer))
    except ValueError as error:
        raise click.UsageError(f"stdin: {error}") from None
