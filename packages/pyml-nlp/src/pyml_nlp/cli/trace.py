"""``pyml trace``: files of ``pyml-infer --trace-out`` and ``Trace.save``, as text."""

from __future__ import annotations

import click

from .group import help_without_command
from .options import SETTINGS, Command, configure_logs, integer, positive
from .output import Output

command = click.Group(
    "trace",
    short_help="Look into a trace.",
    help="Look into traces that pyml-infer --trace-out wrote.",
    context_settings=SETTINGS,
    invoke_without_command=True,
    callback=help_without_command,
)


@command.command("summary", cls=Command, context_settings=SETTINGS)
@click.argument("file", metavar="FILE")
@integer("--top", default=20, show_default=True, metavar="N", help="Maximum number of operations to print.")
def summary(file: str, top: int) -> None:
    """Print the operations of FILE (.json, .csv or .parquet) that took most, the same ones of all layers together."""
    positive({"--top": top})
    configure_logs(-1)
    output = Output()

    from pyml_nn.trace import files

    output.write(files.summary(files.read_records(file), top) + "\n")
