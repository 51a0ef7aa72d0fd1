"""The options of ``pyml-infer`` about batches, kept prompts, long texts and speculation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from .options import F, Option, choice, exclusive, integer, positive

HEADING = "Batches, reuse and speed"


def reuse_options(function: F) -> F:
    """``output``, ``resume``, ``max_batch_size``, ``prompt_cache``, ``overflow``, ``n_keep``, speculation."""
    for decorator in reversed((
        click.option("--output", metavar="PATH", cls=Option, heading=HEADING,
                     help="Write the texts of a batch to a .jsonl file, as they end."),
        click.option("--resume", is_flag=True, cls=Option, heading=HEADING,
                     help="Go on with an --output that was interrupted."),
        integer("--max-batch-size", metavar="N", heading=HEADING,
                help="Maximum number of texts of a batch that run at a time. [default: 8]"),
        click.option("--prompt-cache", metavar="PATH", cls=Option, heading=HEADING,
                     help="Keep the computed prompt in a file, and reuse it."),
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


def check_reuse(options: Mapping[str, Any], batch_file: str | None) -> None:
    """Usage errors of these options, by the names of the command's arguments."""
    if batch_file is None:
        for name in ("output", "max_batch_size"):
            if options[name] is not None:
                raise click.UsageError(f"--{name.replace('_', '-')} is supported with --batch-file alone")
    elif options["prompt_cache"] is not None:
        exclusive({"--batch-file <PATH>": True, "--prompt-cache <PATH>": True})
    if options["resume"] and options["output"] is None:
        raise click.UsageError("--resume is supported with --output alone")
    positive({"--max-batch-size": options["max_batch_size"]})
    if options["n_keep"] is not None and options["n_keep"] < 0:
        raise click.UsageError(f"--n-keep must be >= 0, got {options['n_keep']}")
    if options["n_keep"] is not None and options["overflow"] != "shift":
        raise click.UsageError("--n-keep is supported with --overflow shift alone")
