"""The click options of ``pyml-infer`` for batches, kept prompts, long texts and speculation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .options import F, Option, choice, exclusive, integer, positive

if TYPE_CHECKING:
    from .arguments import LongTextArguments, ReuseArguments

HEADING = "Batches, reuse and speed"
MAX_SAMPLES = 1 << 16  # as in generation.samples, whose import takes long


def reuse_options(function: F) -> F:
    """--n, --best-of, --output, --resume, --max-batch-size, --prompt-cache and :func:`long_text_options`."""
    for decorator in reversed((
        integer("--n", metavar="N", heading=HEADING, help="Generate N texts of the prompt. [default: 1]"),
        integer("--best-of", metavar="N", heading=HEADING,
                help="Generate N texts, and print those with the highest mean log probability."),
        click.option("--output", metavar="PATH", cls=Option, heading=HEADING,
                     help="Write the texts of a batch to a .jsonl file, as they end."),
        click.option("--resume", is_flag=True, cls=Option, heading=HEADING,
                     help="Go on with an --output that was interrupted."),
        integer("--max-batch-size", metavar="N", heading=HEADING,
                help="Maximum number of texts of a batch that run at a time. [default: 8]"),
        click.option("--prompt-cache", metavar="PATH", cls=Option, heading=HEADING,
                     help="Keep the computed prompt in a file, and reuse it."),
        long_text_options,
    )):  # fmt: skip
        function = decorator(function)
    return function


def long_text_options(function: F) -> F:
    """--overflow, --n-keep, --draft-model and --no-speculation."""
    for decorator in reversed((
        choice("error", "shift")("--overflow", default="error", metavar="WHAT", heading=HEADING,
                                 help="When the context is full: error: end. shift: forget the oldest tokens."),
        integer("--n-keep", metavar="N", heading=HEADING,
                help="Tokens at the beginning that shift keeps. [default: BOS]"),
        click.option("--draft-model", metavar="MODEL", cls=Option, heading=HEADING,
                     help="A smaller model that drafts tokens."),
        click.option("--no-speculation", is_flag=True, cls=Option, heading=HEADING,
                     help="Draft nothing from the text itself. Texts are the same."),
    )):  # fmt: skip
        function = decorator(function)
    return function


def check_reuse(values: ReuseArguments, batch_file: str | None) -> None:
    """Usage errors of these options in combination."""
    several = {"--n": values["n"], "--best-of": values["best_of"]}
    positive(several)
    for flag, count in several.items():
        if count is not None:
            exclusive({flag: True, "--batch-file <PATH>": batch_file})
            exclusive({flag: True, "--prompt-cache <PATH>": values["prompt_cache"]})
            if count > MAX_SAMPLES:
                raise click.UsageError(f"{flag} must be <= {MAX_SAMPLES}, got {count}")
    if values["best_of"] is not None and values["best_of"] < (values["n"] or 1):
        raise click.UsageError(f"--best-of must be >= --n, got {values['best_of']} and {values['n']}")
    if batch_file is None:
        if values["output"] is not None:
            raise click.UsageError("--output is supported with --batch-file alone")
        if values["max_batch_size"] is not None and all(count is None for count in several.values()):
            raise click.UsageError("--max-batch-size is supported with --batch-file, --n and --best-of alone")
    elif values["prompt_cache"] is not None:
        exclusive({"--batch-file <PATH>": True, "--prompt-cache <PATH>": True})
    if values["resume"] and values["output"] is None:
        raise click.UsageError("--resume is supported with --output alone")
    positive({"--max-batch-size": values["max_batch_size"]})
    check_long_texts(values)


def check_long_texts(values: LongTextArguments) -> None:
    """Usage errors of :func:`long_text_options`."""
    if values["n_keep"] is not None and values["n_keep"] >= 0 and values["overflow"] != "shift":
        raise click.UsageError("--n-keep is supported with --overflow shift alone")
