"""``pyml audit``: measure a model from load to jitter and write the report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .interrupts import ending_in_order
from .options import (
    SETTINGS,
    Command,
    check_model,
    configure_logs,
    integer,
    log_options,
    model_options,
    parsed,
    positive,
    verbosity,
)
from .output import Output, ProgressBar

if TYPE_CHECKING:
    from typing import Unpack

    from .arguments import AuditArguments


def _numbers(text: str) -> tuple[int, ...]:
    from ..audit.plan import parse_numbers

    return parse_numbers(text)


numbers = parsed(_numbers, "numbers such as 16,64 or 0,4-7")


@click.command("audit", cls=Command, context_settings=SETTINGS, short_help="Report what limits a model here.")
@model_options
@numbers("--prompt-lengths", metavar="N,...", help="Prompts to measure. [default: 16, 32, ... 4096 as they fit]")
@integer("-r", "--repetitions", metavar="N", help="Repetitions of each. [default: 5]")
@numbers("--layers", metavar="N,...", help="Layers whose attention is taken apart. [default: all]")
@click.option("--output", metavar="DIR", help="Folder of the report. [default: audit-MODEL-DATE]")
@click.option("--quick", is_flag=True, help="Three prompt lengths, fewer repetitions.")
@click.option("--compare", nargs=2, metavar="A.json B.json", help="Say what changed from one report to another.")
@log_options
def command(**values: Unpack[AuditArguments]) -> None:
    """Audit the performance of MODEL on this machine: report.md, report.json and report.html in one folder.

    It measures the machine's limits, loading, cold and warm prefill and decode, attention part by part over prompt
    lengths, every operation against the roofline, jitter and memory, and says what limits the model.
    """
    level = verbosity(values["verbose"], values["quiet"])
    model, safetensors, threads = values["model"], values["safetensors"], values["threads"]
    repetitions, output = values["repetitions"], values["output"]
    out = Output()
    if values["compare"]:
        if model is not None or safetensors is not None:
            raise click.UsageError("the argument '--compare' cannot be used with '[MODEL]'")
        configure_logs(level or -1)
        from ..audit import compare as comparison

        out.write(comparison.text(*(comparison.read(Path(path)) for path in values["compare"])))
        return
    source = check_model(model, safetensors, threads)
    positive({"--repetitions": repetitions})
    configure_logs(level or -1)

    from .. import logs
    from ..audit.report import audit

    with ending_in_order(), ProgressBar("audit", level >= 0) as bar:

        def tell(text: str, done: float, total: float) -> None:
            if total and bar.shown:
                bar(done, total, f"{text} ({total - done:.0f} s left)")
            elif level >= 0:
                logs.tell(f"audit: {text}")

        folder, lines = audit(
            source, values["dtype"], threads, values["prompt_lengths"], repetitions, values["layers"] or (),
            values["quick"], Path(output) if output else None, tell,
        )  # fmt: skip
    out.write("\n".join([*lines, *(str(folder / name) for name in ("report.md", "report.json", "report.html"))]) + "\n")
