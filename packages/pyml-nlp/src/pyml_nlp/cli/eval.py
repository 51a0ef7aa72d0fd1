"""``pyml eval``: the perplexity of a text, and how far a model lies from another one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

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
    model_options,
    positive,
    read_stdin,
    verbosity,
)
from .output import Output, ProgressBar

if TYPE_CHECKING:
    from typing import Unpack

    from ..evaluation import Estimate, Evaluation
    from .arguments import EvalArguments


@click.command("eval", cls=Command, context_settings=SETTINGS, short_help="Measure the perplexity of a text.")
@click.argument("file", shell_complete=complete_files)
@model_options
@click.option("--against", metavar="MODEL", help="The reference to compare with. [default: MODEL, in --against-dtype]")
@choice(*DTYPES)("--against-dtype", metavar="TYPE", help="Its weights in memory. [default: auto]")
@integer("--window", default=512, show_default=True, metavar="N", help="Tokens that are run as a sequence.")
@integer("--stride", metavar="N", help="A window every N tokens. [default: side by side, second halves scored]")
@integer("--chunks", metavar="N", help="Run only the first N windows.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@log_options
def command(**values: Unpack[EvalArguments]) -> int:
    """Perplexity of the text in FILE ("-": stdin) under MODEL, with its interval of 95 %.

    With --against or --against-dtype also the Kullback-Leibler divergence from that reference to MODEL, and how often
    both have the same most probable token. Windows and halves are those of llama.cpp's perplexity tool.
    """
    level = verbosity(values["verbose"], values["quiet"])
    source = check_model(values["model"], values["safetensors"], values["threads"])
    window, stride, chunks = values["window"], values["stride"], values["chunks"]
    positive({"--window": window, "--stride": stride, "--chunks": chunks})
    if window < 4:
        raise click.UsageError(f"--window must be > 3, got {window}")
    if stride is not None and stride > window:
        raise click.UsageError(f"--stride must be in 1 .. {window} (the window), got {stride}")
    configure_logs(level or -1)
    from .. import LoadOptions, load
    from ..evaluation import evaluate
    from ..text_files import read_text

    text = read_stdin() if values["file"] == "-" else read_text(values["file"])

    options = LoadOptions(dtype=values["dtype"], threads=values["threads"], prefix_cache_bytes=0)
    output = Output()
    with ProgressBar("Loading", level >= 0) as bar:
        lm = load(source, options, progress=bar)
    reference = None
    against, against_dtype = values["against"], values["against_dtype"]
    if against is not None or against_dtype is not None:
        with ProgressBar("Loading the reference", level >= 0) as bar:
            reference = load(
                source if against is None else against, options, progress=bar, dtype=against_dtype or "auto"
            )
    with ProgressBar("Evaluating", level >= 0) as bar:
        found = evaluate(
            lm,
            text,
            window,
            stride,
            chunks,
            reference,
            lambda done, total: bar(done, total, f"{done} of {total} windows"),
        )
    output.write(_json(found) if values["as_json"] else _table(found))
    return 0


def _table(found: Evaluation) -> str:
    lines = [
        f"text         {found.tokens} tokens, {found.windows} windows, {found.positions} positions scored",
        f"perplexity   {_interval(found.perplexity, '.4f')}",
    ]
    if found.comparison is not None:
        comparison = found.comparison
        lines += [
            f"reference    {_interval(comparison.perplexity, '.4f')}",
            f"mean KLD     {_interval(comparison.kld, '.6f')}",
            f"largest KLD  {comparison.max_kld:.6f}",
            f"same top-1   {_interval(comparison.same_top, '.2%')}",
        ]
    return "\n".join(lines) + "\n"


def _interval(estimate: Estimate, form: str) -> str:
    return f"{estimate.value:{form}}  (95 %: {estimate.low:{form}} to {estimate.high:{form}})"


def _json(found: Evaluation) -> str:
    shown: dict[str, object] = {
        "tokens": found.tokens,
        "windows": found.windows,
        "positions": found.positions,
        "perplexity": found.perplexity._asdict(),
    }
    if found.comparison is not None:
        comparison = found.comparison
        shown["reference"] = {
            "perplexity": comparison.perplexity._asdict(),
            "kld": comparison.kld._asdict(),
            "max_kld": comparison.max_kld,
            "same_top": comparison.same_top._asdict(),
        }
    return json.dumps(shown) + "\n"
