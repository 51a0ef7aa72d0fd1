"""``pyml-infer``: text from a prompt. Only the text goes to stdout."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from .chat_options import add_chat_options, chat_model, check_chat
from .ending import INTERRUPTED
from .interrupts import interruptible
from .loaded import check_template, loaded
from .options import (
    SETTINGS,
    Command,
    check_model,
    complete_files,
    configure_logs,
    integer,
    is_terminal,
    log_options,
    memory_options,
    model_options,
    number,
    read_stdin,
    utf8,
    verbosity,
)
from .output import Output
from .places import check_places
from .reuse import reuse_options
from .sampling import grammar_options, sampling_options, stop_options

if TYPE_CHECKING:
    from typing import Unpack

    from ..batch_items import Item
    from ..language_model import LanguageModel
    from .arguments import InferArguments
    from .task import Job, Task


@click.command("infer", cls=Command, context_settings=SETTINGS, short_help="Continue a text, or answer a prompt.")
@model_options
@click.option("--prompt", metavar="TEXT", help="The text to continue. [default: stdin]")
@click.option(
    "--batch-file",
    metavar="PATH",
    shell_complete=complete_files,
    help="A file of prompts, one a line, or .jsonl. Prints '[i] text' for each.",
)
@integer("--max-tokens", metavar="N", help="Maximum number of tokens to generate. [default: 256]")
@click.option("--stream/--no-stream", default=None, help="Print the text as it is generated. [default: on a terminal]")
@integer("--logprobs", metavar="N", heading="Sampling", help="In --json: log probabilities, and the N largest.")
@click.option("--echo", is_flag=True, help="Print the prompt before the text.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each text.")
@integer("--context-len", metavar="N", help="Maximum length of prompt and text in tokens. [default: the model's]")
@number("--timeout", metavar="SECONDS", help="Stop after SECONDS, with the text so far.")
@click.option("--trace-out", metavar="PATH", help="Write where the time goes: .json for Perfetto, .csv or .parquet.")
@sampling_options
@stop_options
@add_chat_options
@grammar_options
@reuse_options
@memory_options
@log_options
def command(**values: Unpack[InferArguments]) -> int:
    """Generate text with MODEL: a .gguf file, a folder in Hugging Face layout, or a hub id.

    Without MODEL: the one that PYML_MODEL names, else the embedded default, Gemma 3 270M.
    """
    from .collect import answer_options, check_combinations, generation_changes, load_options, run_arguments
    from .task import Job, Task

    level = verbosity(values["verbose"], values["quiet"])
    source = check_model(values["model"], values["safetensors"], values["threads"])
    check_combinations(values)
    chat = check_chat(values)
    changes = generation_changes(values, values["logprobs"])
    options = load_options(values)
    output = Output()
    task = Task(
        stream=(output.terminal and not values["as_json"]) if values["stream"] is None else values["stream"],
        as_json=values["as_json"],
        echo=values["echo"],
        output=values["output"],
        resume=values["resume"],
        prompt_cache=values["prompt_cache"],
        talkative=level >= 0,
        n=values["n"] or 1,
        best_of=values["best_of"],
    )
    check_places(values["trace_out"], task.prompt_cache, task.output, task.resume)
    configure_logs(level)
    if values["prompt"] is None and values["batch_file"] is None:
        _check_name(source)
    items = [] if values["interactive"] else _items(values["prompt"], values["batch_file"], level)
    if chat is not None:
        source = chat_model(source)
        check_template(source)
    lm = loaded(source, options, level)
    run = run_arguments(values)
    if values["interactive"]:
        from .interactive import converse

        return converse(lm, Job(items, answer_options(lm, changes), chat, run), output, level >= 0)
    job = Job(items, lm.generation_options.replace(**changes), chat, run, values["max_batch_size"])
    generate = _generate_batch
    if values["batch_file"] is None:
        generate = _generate_samples if task.several else _generate_one
    if values["trace_out"] is None:
        return generate(lm, job, task, output)
    with lm.trace() as trace:
        try:
            return generate(lm, job, task, output)
        finally:  # of the work that was done, however it ended
            trace.save(values["trace_out"])


# ---- input


def _check_name(source: str | None) -> None:
    """Raise ModelNotFoundError before stdin is read if no model can have this name."""
    if source is None:
        return
    from ..errors import ModelNotFoundError
    from ..source import check_name

    try:
        check_name(source)
    except ModelNotFoundError as error:
        if " " not in source:
            raise
        raise ModelNotFoundError(f"{error} (a text to continue is given with --prompt)") from None


def _items(prompt: str | None, batch_file: str | None, level: int) -> list[Item]:
    from ..batch_items import Item
    from .batch_file import read

    return [Item(_prompt(prompt, level))] if batch_file is None else read(batch_file)


def _prompt(prompt: str | None, level: int) -> str:
    if prompt is not None:
        return utf8("--prompt", prompt)  # the tokenizer decides whether there is something to continue
    text = _stdin(level)
    if not text.strip():
        raise click.UsageError("No prompt provided (use --prompt or pipe text to stdin)")
    return text


def _stdin(level: int) -> str:
    if level >= 0 and is_terminal(sys.stdin):
        from ..logs import tell

        tell("Reading prompt from stdin... (Ctrl-D ends it)")
    return read_stdin()


# ---- generation


def _generate_one(lm: LanguageModel, job: Job, task: Task, output: Output) -> int:
    from .prompt_cache import save_prompt_cache, use_prompt_cache
    from .results import json_line
    from .task import ending, log_end, log_start, speed

    prompt = job.items[0].prompt
    if task.prompt_cache is not None:
        use_prompt_cache(lm, task.prompt_cache, job.options.adapter)
    generation = job.start(lm, prompt)
    completion = generation.completion
    log_start(lm, job, completion.cache.max_length)
    start = time.perf_counter()
    shown = 0
    with interruptible(generation.cancel) as interrupted:
        try:
            if task.echo:
                output.write(prompt)
            for step in generation:
                if task.stream:
                    output.write(step.text)
                    shown += len(step.text)
        finally:  # the text so far, whatever happens
            if not task.as_json:
                output.write(generation.text[shown:])
                output.write("\n" if output.terminal else "")
    if task.as_json:
        output.write(json_line(lm, completion, completion.sequence))
    seconds = time.perf_counter() - start
    log_end(speed(len(generation.tokens), seconds), *ending(generation, job.options))
    if task.prompt_cache is not None:
        save_prompt_cache(completion, task.prompt_cache)
    return INTERRUPTED if interrupted else 0


def _generate_samples(lm: LanguageModel, job: Job, task: Task, output: Output) -> int:
    from .samples import generate_samples

    return generate_samples(lm, job, task, output)


def _generate_batch(lm: LanguageModel, job: Job, task: Task, output: Output) -> int:
    from .batch_texts import generate_batch

    return generate_batch(lm, job, task, output)
