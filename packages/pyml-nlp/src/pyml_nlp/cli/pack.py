"""``pyml pack``: a model as one file that loads in milliseconds."""

from __future__ import annotations

import click

from .options import (
    DTYPES,
    SETTINGS,
    Command,
    check_model,
    choice,
    complete_files,
    configure_logs,
    integer,
    log_options,
    positive,
    verbosity,
)
from .output import Output, ProgressBar


@click.command("pack", cls=Command, context_settings=SETTINGS, short_help="Pack a model into one file that loads fast.")
@click.argument("model", required=False, metavar="[MODEL]", shell_complete=complete_files)
@click.argument("out", required=False, metavar="[OUT]", shell_complete=complete_files)
@choice(*DTYPES)("--dtype", default="auto", metavar="TYPE", help="Convert the weights, as --dtype of pyml infer.")
@integer("--threads", "-t", metavar="N", help="Use N threads. [default: what suits the machine]")
@click.option("--check", is_flag=True, help="Do not pack: compare all of the packed MODEL with its checksums.")
@log_options
def command(
    model: str | None, out: str | None, dtype: str, threads: int | None, check: bool, verbose: int, quiet: int
) -> None:
    """Write MODEL as OUT, with its tokenizer and configuration, in the layout that pyml computes with.

    Such a file is loaded in milliseconds, and all processes of a machine share its memory. The results are the same,
    bit for bit. Without OUT it is written into pyml's cache, where pyml list shows it, and is loaded by its name.
    """
    positive({"--threads": threads})
    if check and (model is None or out is not None):
        raise click.UsageError("--check needs one packed model")
    level = verbosity(verbose, quiet)
    configure_logs(level)
    source = check_model(model, None, None)
    output = Output()
    from .. import packing
    from ..loading import find

    if check:
        with ProgressBar("Checking", level >= 0) as bar:
            packing.check(find(source).path, bar)
        output.write(f"{model}: all checksums are right\n")
        return
    with ProgressBar("Packing", level >= 0) as bar:
        path = packing.pack(source, out, dtype=dtype, threads=threads, progress=bar)
    output.write(f"{path}\n")
