"""The options of ``pyml-infer`` about batches, kept prompts, long texts and speculation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from .options import F, Option, choice, exclusive, integer, positive

HEADING = "Batches, reuse and speed"


def reuse_options(function: F) -> F:
    """``output``, ``resume``, ``together``, ``prompt_cache``, ``overflow``, ``keep``, speculation."""
    for decorator in reversed((
        click.option("--output", metavar="PATH", cls=Option, heading=HEADING,
                     help="Write the texts of a batch to a .jsonl file, as they end."),
        click.option("--resume", is_flag=True, cls=Option, heading=HEADING,
                     help="Go on with an --output that was interrupted."),
        integer("--together", metavar="N", heading=HEADING, help="Most texts of a batch side by side. [default: 8]"),
        click.option("--prompt-cache", metavar="PATH", cls=Option, heading=HEADING,
                     help="Keep the computed prompt in a file, and reuse it."),
        choice("error", "roll")("--overflow", default="error", metavar="WHAT", heading=HEADING,
                                help="error: end at the context's end. roll: forget the oldest."),
        integer("--keep", metavar="N", heading=HEADING,
                help="Tokens at the beginning that roll never forgets. [default: BOS]"),
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
        for name in ("output", "together"):
            if options[name] is not None:
                raise click.UsageError(f"--{name} is supported with --batch-file alone")
    elif options["prompt_cache"] is not None:
        exclusive({"--batch-file <PATH>": True, "--prompt-cache <PATH>": True})
    if options["resume"] and options["output"] is None:
        raise click.UsageError("--resume is supported with --output alone")
    positive({"--together": options["together"]})
    if options["keep"] is not None and options["keep"] < 0:
        raise click.UsageError(f"--keep must be >= 0, got {options['keep']}")
    if options["keep"] is not None and options["overflow"] != "roll":
        raise click.UsageError("--keep is supported with --overflow roll alone")
