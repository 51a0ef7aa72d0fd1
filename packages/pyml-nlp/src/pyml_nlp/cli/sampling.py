"""The click options of sampling, stopping and structured output."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from .options import BASIC, F, Option, exclusive, integer, invalid, number, utf8, whole_number

if TYPE_CHECKING:
    from ..structured.grammar import Grammar
    from .arguments import GrammarArguments

HEADING, STRUCTURED = "Sampling", "Structured output"


def sampling_options(function: F) -> F:
    """The fields of :class:`.SamplingOptions`."""
    return _decorated(
        function,
        number("--temperature", metavar="F", heading=BASIC,
               help="0: the most probable token. [default: the model's, else 0.8]"),
        integer("--top-k", metavar="N", heading=BASIC,
                help="Choose among the N most probable tokens. [default: the model's]"),
        number("--top-p", metavar="F", heading=BASIC,
               help="Choose among the fewest tokens whose probabilities sum to F. [default: the model's, else 0.95]"),
        number("--min-p", metavar="F", heading=HEADING,
               help="Choose among tokens at least F times as probable as the first. [default: the model's, else 0.05]"),
        number("--typical-p", metavar="F", heading=HEADING, help="Choose among the most typical tokens that sum to F."),
        number("--repetition-penalty", metavar="F", heading=HEADING,
               help="Above 1: tokens of the text so far are less likely. [default: the model's]"),
        number("--frequency-penalty", metavar="F", heading=HEADING,
               help="Subtract F from a logit for each occurrence in the text."),
        number("--presence-penalty", metavar="F", heading=HEADING,
               help="Subtract F once from a logit of a token in the text."),
        click.option("--logit-bias", multiple=True, metavar="ID=F", cls=Option, heading=HEADING, callback=_biases,
                     help="Add F to a token's logit; -inf: never. Repeatable."),
        click.option("--sampler-order", metavar="NAMES", cls=Option, heading=HEADING, callback=_names,
                     help="Rules in their order, such as top_p,temperature."),
        integer("--seed", metavar="N", heading=BASIC, help="The same seed gives the same text. [default: random]"),
    )  # fmt: skip


def stop_options(function: F) -> F:
    """--stop, --stop-id and --include-stop."""
    return _decorated(
        function,
        click.option("--stop", multiple=True, metavar="TEXT", cls=Option, heading=BASIC, callback=_not_empty,
                     help="End the text before TEXT. Repeatable."),
        click.option("--stop-id", multiple=True, metavar="ID", cls=Option, heading=HEADING, callback=_token_ids,
                     help="End the text at this token. Repeatable."),
        click.option("--include-stop", is_flag=True, cls=Option, heading=HEADING,
                     help="End the text after the stop text."),
    )  # fmt: skip


def grammar_options(function: F) -> F:
    """--json-schema, --regex and --grammar."""
    return _decorated(
        function,
        click.option("--json-schema", metavar="FILE|JSON", cls=Option, heading=STRUCTURED,
                     help="The text is JSON of this schema."),
        click.option("--regex", metavar="REGEX", cls=Option, heading=STRUCTURED,
                     help="The whole text matches this expression."),
        click.option("--grammar", metavar="FILE", cls=Option, heading=STRUCTURED,
                     help="The text matches this grammar: Lark or GBNF."),
    )  # fmt: skip


def chosen_grammar(values: GrammarArguments) -> Grammar | None:
    """The grammar that was asked for, from its file.

    Raises:
        UsageError: more than one, or one that cannot be used. PymlError: a file that cannot be read.
    """
    json_schema, regex, grammar = values["json_schema"], values["regex"], values["grammar"]
    exclusive(
        {"--json-schema": json_schema is not None, "--regex": regex is not None, "--grammar": grammar is not None}
    )
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


def _decorated(function: F, *options: Callable[[Any], Any]) -> F:
    for option in reversed(options):
        function = option(function)
    return function


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
