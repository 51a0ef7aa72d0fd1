"""``pyml-infer``: text from a prompt. Only the text goes to stdout."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from .chat import add_chat_options, check_chat
from .ending import INTERRUPTED
from .interrupts import interruptible
from .options import (
    SETTINGS,
    Command,
    check_model,
    configure_logs,
    integer,
    log_options,
    memory_options,
    model_options,
    number,
    read_stdin,
    utf8,
    verbosity,
)
from .output import Output, ProgressBar
from .places import check_places
from .reuse import reuse_options
from .sampling import grammar_options, sampling_options, stop_options

if TYPE_CHECKING:
    from typing import Unpack

    from ..language_model import LanguageModel
    from ..options import LoadOptions
    from .arguments import InferArguments, RunArguments
    from .batch_file import Item
    from .task import Job, Task


@click.command("infer", cls=Command, context_settings=SETTINGS)
@model_options
@click.option("--prompt", metavar="TEXT", help="The text to continue. [default: stdin]")
@click.option("--batch-file", metavar="PATH", help="Prompts, a line each, or .jsonl; prints '[i] text' for each.")
@integer("--max-tokens", metavar="N", help="Most tokens to generate. [default: 256]")
@click.option("--stream", is_flag=True, help="Print the text as it is generated.")
@integer("--logprobs", metavar="N", heading="Sampling", help="In --json: log probabilities, and the N largest.")
@click.option("--echo", is_flag=True, help="Print the prompt before the text.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object a prompt.")
@integer("--context-len", metavar="N", help="Most positions of a sequence. [default: the model's]")
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
    from .collect import check_combinations, generation_changes, load_options
    from .task import Job, Task

    level = verbosity(values["verbose"], values["quiet"])
    source = check_model(values["model"], values["safetensors"], values["threads"])
    check_combinations(values)
    chat = check_chat(values)
    changes = generation_changes(values)
    options = load_options(values)
    task = Task(
        stream=values["stream"],
        as_json=values["as_json"],
        echo=values["echo"],
        output=values["output"],
        resume=values["resume"],
        prompt_cache=values["prompt_cache"],
    )
    check_places(values["trace_out"], task.prompt_cache, task.output, task.resume)
    configure_logs(level)
    items = [] if values["interactive"] else _items(values["prompt"], values["batch_file"], level)
    output = Output()
    lm = _load(source, options, level)
    run: RunArguments = {
        "timeout": values["timeout"],
        "speculate": not values["no_speculation"],
        "draft_model": _draft_model(values["draft_model"], values["threads"]),
    }
    job = Job(items, lm.generation_options.replace(**changes), chat, run, values["max_batch_size"])
    if values["interactive"]:
        with lm:
            from .interactive import converse

            return converse(lm, job, output, level >= 0)
    generate = _generate_one if values["batch_file"] is None else _generate_batch
    if values["trace_out"] is None:
        return generate(lm, job, task, output)
    with lm.trace() as trace:
        try:
            return generate(lm, job, task, output)
        finally:  # of the work that was done, however it ended
            trace.save(values["trace_out"])


# ---- input


def _items(prompt: str | None, batch_file: str | None, level: int) -> list[Item]:
    from .batch_file import Item, read

    return [Item(_prompt(prompt, level))] if batch_file is None else read(batch_file)


def _prompt(prompt: str | None, level: int) -> str:
    prompt = _stdin(level) if prompt is None else utf8("--prompt", prompt)
    if not prompt.strip():
        raise click.UsageError("No prompt provided (use --prompt or pipe text to stdin)")
    return prompt


def _stdin(level: int) -> str:
    if level >= 0:
        from ..logs import tell

        tell("Reading prompt from stdin...")
    return read_stdin()


def _load(source: str | None, options: LoadOptions, level: int) -> LanguageModel:
    from pyml_core import cpu

    from .. import load, logs

    logs.root.info("[runtime] SIMD: %s", cpu.level())
    logs.root.info("[runtime] Threads: %d", options.threads or cpu.default_threads())
    with ProgressBar("Loading", level >= 0) as bar:
        return load(source, options, progress=bar)


def _draft_model(name: str | None, threads: int | None) -> LanguageModel | None:
    from .. import load

    return None if name is None else load(name, threads=threads)


# ---- generation


def _generate_one(lm: LanguageModel, job: Job, task: Task, output: Output) -> int:
    from .prompt_cache import save_prompt_cache, use_prompt_cache
    from .results import json_line
    from .task import log_end, log_start

    prompt = job.items[0].prompt
    if task.prompt_cache is not None:
        use_prompt_cache(lm, task.prompt_cache)
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
    count = len(generation.tokens)
    speed = f"{count} tokens in {seconds:.2f}s ({count / seconds:.1f} tokens/sec)"
    stopped = ["Stopped at the timeout"] if generation.finish_reason == "timeout" else []
    log_end(speed if task.stream else f"Generated in {seconds:.2f}s", *stopped)
    if task.prompt_cache is not None:
        save_prompt_cache(completion, task.prompt_cache)
    return INTERRUPTED if interrupted else 0


def _generate_batch(lm: LanguageModel, job: Job, task: Task, output: Output) -> int:
    from .batch import generate_batch

    return generate_batch(lm, job, task, output)
