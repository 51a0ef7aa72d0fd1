"""``pyml batch plan``: find the rows of a job, cut them into shards, and write its manifest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .options import (
    DTYPES,
    KV_DTYPES,
    SETTINGS,
    Command,
    Option,
    choice,
    complete_files,
    configure_logs,
    integer,
    log_options,
    usage_error,
    utf8,
    verbosity,
)
from .output import Output
from .sampling import chosen_grammar, grammar_options, sampling_options, stop_options

if TYPE_CHECKING:
    from typing import Unpack

    from ..options.load import LoadOptions
    from .arguments import JobPlanArguments


@click.command("plan", cls=Command, context_settings=SETTINGS, short_help="Cut the rows of files into shards.")
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...", shell_complete=complete_files)
@click.option("--output", metavar="JOB", required=True, help="Folder of the job: a path, or a URL.")
@click.option("--model", metavar="MODEL", help="A .gguf file, a folder or a hub id. [default: as of pyml infer]")
@choice("generate", "chat", "score", "embed")(
    "--task", default="generate", metavar="TASK", help="generate, chat, score or embed. [default: generate]"
)
@click.option("--prompt", metavar="TEMPLATE", help="A prompt over columns: 'Translate: {text}'.")
@click.option("--prompt-column", metavar="NAME", help="The column with prompts. [default: prompt]")
@click.option("--messages-column", metavar="NAME", help="The column with messages. [default: messages]")
@click.option("--system", metavar="TEXT", help="A system message, for chats.")
@integer("--max-tokens", metavar="N", help="Most tokens of a text. [default: 256]")
@integer("--logprobs", metavar="N", heading="Sampling", help="Log probabilities, and the N largest.")
@integer("--top", metavar="N", heading="Sampling", help="Of scores: those of all tokens, and the N largest.")
@click.option(
    "--id-column",
    metavar="NAME",
    default="id",
    cls=Option,
    heading="Rows",
    help="The column with names of rows. [default: id]",
)
@click.option(
    "--row-options",
    metavar="NAMES",
    cls=Option,
    heading="Rows",
    help="Columns that are options, such as max_tokens,seed.",
)
@click.option("--parquet", is_flag=True, cls=Option, heading="Rows", help="Write results as Parquet, not JSONL.")
@integer("--rows-per-shard", metavar="N", heading="Shards", help="Rows of a shard.")
@integer(
    "--tokens-per-shard", metavar="N", heading="Shards", help="Tokens of a shard. [default: by the size of the job]"
)
@click.option(
    "--group", is_flag=True, cls=Option, heading="Shards", help="Put rows whose prompts begin alike next to each other."
)
@click.option(
    "--cpu-level",
    metavar="LEVEL",
    cls=Option,
    heading="Shards",
    help="The level that all workers have to have. [default: this machine's]",
)
@choice(*DTYPES)(
    "--dtype", default="auto", metavar="TYPE", heading="Advanced", help=f"Weights in memory: {', '.join(DTYPES)}."
)
@integer("--context-len", metavar="N", heading="Advanced", help="Most positions of a sequence. [default: the model's]")
@sampling_options
@stop_options
@grammar_options
@choice(*KV_DTYPES)(
    "--kv-dtype",
    default="auto",
    metavar="TYPE",
    heading="Advanced",
    help=f"Keys and values in memory: {', '.join(KV_DTYPES)}.",
)
@log_options
def command(**values: Unpack[JobPlanArguments]) -> None:
    """Plan a job: the rows of INPUT, which are JSONL or Parquet files, patterns, folders or URLs.

    Without --prompt, --prompt-column or --messages-column, rows are as the lines of a batch file: a prompt or messages,
    and options of their own. Then `pyml batch run JOB` generates, on any number of machines.
    """
    configure_logs(verbosity(values["verbose"], values["quiet"]))
    load_options = _load_options(values)
    grammar = chosen_grammar(values)
    output = Output()

    from .. import jobs
    from ..errors import ArgumentError

    try:
        job = jobs.plan(
            values["inputs"],
            values["output"],
            model=values["model"],
            task=values["task"],
            prompt=None if values["prompt"] is None else utf8("--prompt", values["prompt"]),
            prompt_column=values["prompt_column"],
            messages_column=values["messages_column"],
            system=None if values["system"] is None else utf8("--system", values["system"]),
            id_column=values["id_column"],
            row_options=[name.strip() for name in (values["row_options"] or "").split(",") if name.strip()],
            top=values["top"],
            seed=values["seed"],
            output="parquet" if values["parquet"] else "jsonl",
            rows_per_shard=values["rows_per_shard"],
            tokens_per_shard=values["tokens_per_shard"],
            group=values["group"],
            cpu_level=values["cpu_level"],
            load_options=load_options,
            max_tokens=values["max_tokens"],
            temperature=values["temperature"],
            top_k=values["top_k"],
            top_p=values["top_p"],
            min_p=values["min_p"],
            typical_p=values["typical_p"],
            repetition_penalty=values["repetition_penalty"],
            frequency_penalty=values["frequency_penalty"],
            presence_penalty=values["presence_penalty"],
            logit_bias=values["logit_bias"],
            order=values["sampler_order"],
            stop=values["stop"] or None,
            stop_ids=values["stop_id"] or None,
            include_stop=values["include_stop"] or None,
            logprobs=values["logprobs"],
            grammar=grammar,
        )
    except ArgumentError as error:
        raise usage_error(error) from None
    manifest = job.manifest
    output.write(
        f"{job.folder}: {manifest.rows} rows in {job.n_shards} shards, about {manifest.tokens} tokens, "
        f"{manifest.cpu_level}\n"
    )


def _load_options(values: JobPlanArguments) -> LoadOptions:
    """How workers load the model; usage error for an invalid value."""
    from ..errors import ArgumentError
    from ..options.load import LoadOptions

    try:
        return LoadOptions(dtype=values["dtype"], context_length=values["context_len"], kv_dtype=values["kv_dtype"])
    except ArgumentError as error:
        raise usage_error(error) from None
