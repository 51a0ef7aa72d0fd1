"""``pyml pull``: a model of the hub, in its cache."""

from __future__ import annotations

import click

from .options import SETTINGS, Command, check_model, configure_logs, log_options, verbosity
from .output import Output


@click.command("pull", cls=Command, context_settings=SETTINGS, short_help="Download a model from the hub.")
@click.argument("model")
@log_options
def command(model: str, verbose: int, quiet: int) -> None:
    """Download MODEL into huggingface-hub's cache, and print its path.

    MODEL is a hub id: organisation/name, or organisation/name/file.gguf for one file. A download that was interrupted
    goes on; a model that is there is not downloaded again.
    """
    configure_logs(verbosity(verbose, quiet))
    source = check_model(model, None, None)
    output = Output()
    from ..loading import find

    output.write(f"{find(source).path}\n")
