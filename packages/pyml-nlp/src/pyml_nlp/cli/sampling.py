"""The options that say how tokens are chosen."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from .options import BASIC, F, Option, exclusive, integer, invalid, number, utf8, whole_number

if TYPE_CHECKING:
    from ..structured.grammar import Grammar

HEADING, STRUCTURED = "Sampling", "Structured output"


def sampling_options(function: F) -> F:
    """The fields of :class:`.SamplingOptions`, which the command gets as its argument ``sampling``."""
    options: list[Callable[[Any], Any]] = [
        number("--temperature", default=0.8, show_default=True, metavar="F", heading=BASIC,
               help="0: the most probable token."),
        integer("--top-k", metavar="N", heading=BASIC, help="Choose among the N most probable tokens."),
        number("--top-p", metavar="F", heading=BASIC,
               help="Choose among the most probable ones that reach this sum."),
        number("--min-p", metavar="F", heading=HEADING, help="Choose among tokens F times as probable as the first."),
        number("--typical-p", metavar="F", heading=HEADING, help="Choose among the most typical ones of this sum."),
        number("--repetition-penalty", metavar="F", heading=HEADING,
               help="Above 1: tokens of the text so far are less likely."),
        number("--frequency-penalty", metavar="F", heading=HEADING,
               help="What each occurrence in the text takes off a logit."),
        number("--presence-penalty", metavar="F", heading=HEADING, help="What any occurrence takes off, once."),
        click.option("--logit-bias", multiple=True, metavar="ID=F", cls=Option, heading=HEADING, callback=_biases,
                     help="Add F to a token's logit; -inf: never. Repeatable."),
        click.option("--sampler-order", metavar="NAMES", cls=Option, heading=HEADING, callback=_names,
                     help="Rules in their order, such as top_p,temperature."),
        integer("--seed", metavar="N", heading=BASIC, help="The same seed gives the same text. [default: random]"),
    ]  # fmt: skip

    @functools.wraps(function)
    def with_sampling(*args: Any, **values: Any) -> Any:
        from ..errors import ArgumentError
        from ..options.sampling import SamplingOptions

        values["order"] = values.pop("sampler_order")
        names = SamplingOptions.__dataclass_fields__
        rules = {name: value for name, value in values.items() if name in names}
        rest = {name: value for name, value in values.items() if name not in names}
        try:
            sampling = SamplingOptions(**rules)
        except ArgumentError as error:
            name = "sampler-order" if error.name == "order" else error.name.replace("_", "-")
            raise click.UsageError(f"--{name} {error.problem}") from None
        return function(*args, sampling=sampling, **rest)

    decorated: Any = with_sampling
    for option in reversed(options):
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return]


def stop_options(function: F) -> F:
    """``stop``, ``stop_id`` and ``include_stop``, as of :class:`.GenerationOptions`."""
    for decorator in reversed((
        click.option("--stop", multiple=True, metavar="TEXT", cls=Option, heading=BASIC, callback=_not_empty,
                     help="End the text before TEXT. Repeatable."),
        click.option("--stop-id", multiple=True, metavar="ID", cls=Option, heading=HEADING, callback=_token_ids,
                     help="End the text at this token. Repeatable."),
        click.option("--include-stop", is_flag=True, cls=Option, heading=HEADING,
                     help="End the text after the stop text."),
    )):  # fmt: skip
        function = decorator(function)
    return function


def grammar_options(function: F) -> F:
    """What the text has to match, which the command gets as its argument ``grammar``, a :class:`.Grammar` or None."""

    @functools.wraps(function)
    def with_grammar(*args: Any, json_schema: str | None, regex: str | None, grammar: str | None, **rest: Any) -> Any:
        exclusive(
            {"--json-schema": json_schema is not None, "--regex": regex is not None, "--grammar": grammar is not None}
        )
        return function(*args, grammar=_grammar(json_schema, regex, grammar), **rest)

    decorated: Any = with_grammar
    for decorator in reversed((
        click.option("--json-schema", metavar="FILE|JSON", cls=Option, heading=STRUCTURED,
                     help="The text is JSON of this schema."),
        click.option("--regex", metavar="REGEX", cls=Option, heading=STRUCTURED,
                     help="The whole text matches this expression."),
        click.option("--grammar", metavar="FILE", cls=Option, heading=STRUCTURED,
                     help="The text matches this Lark grammar."),
    )):  # fmt: skip
        decorated = decorator(decorated)
    return decorated  # type: ignore[no-any-return]


def _grammar(json_schema: str | None, regex: str | None, grammar: str | None) -> Grammar | None:
    if json_schema is None and regex is None and grammar is None:
        return None
    from ..structured.grammar import GrammarError, one_grammar
    from ..text_files import read_text

    if json_schema is not None and not json_schema.lstrip().startswith("{"):
        json_schema = read_text(json_schema)
    grammar = None if grammar is None else read_text(grammar)
    regex = None if regex is None else utf8("--regex", regex)
    try:
        return one_grammar(json_schema, regex, grammar)
    except GrammarError as error:
        raise click.UsageError(str(error)) from None


def _not_empty(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    if "" in values:
        raise click.UsageError("--stop must not be empty")
    return tuple(utf8("--stop", value) for value in values)


def _biases(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[int, float] | None:
    biases = {}
    for value in values:
        token, _, bias = value.partition("=")
        try:
            biases[whole_number(token)] = float(bias)
        except (ValueError, OverflowError):
            raise invalid(value, "--logit-bias", "a token id and a number, such as 13=-2.5") from None
    return biases or None


def _token_ids(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(map(_token_id, values))


def _token_id(value: str) -> int:
    try:
        token = whole_number(value)
    except (ValueError, OverflowError):
        token = -1
    if token < 0:
        raise invalid(value, "--stop-id", "a token id")
    return token


def _names(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    return None if value is None else tuple(name.strip().replace("-", "_") for name in value.split(","))
