"""``pyml-infer``: text from a prompt. stdout carries the text and nothing else."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from .chat import add_chat_options, check_chat
from .ending import INTERRUPTED
from .interrupts import interruptible
from .options import (
    SETTINGS,
    Command,
    check_model,
    configure_logs,
    exclusive,
    integer,
    log_options,
    memory_options,
    model_options,
    number,
    positive,
    read_stdin,
    utf8,
    verbosity,
)
from .output import Output, ProgressBar
from .places import check_places
from .reuse import check_reuse, reuse_options
from .sampling import grammar_options, sampling_options, stop_options
from .task import Task

if TYPE_CHECKING:
    from ..language_model import LanguageModel
    from ..options.sampling import SamplingOptions
    from ..structured.grammar import Grammar
    from .batch_file import Item


@click.command("infer", cls=Command, context_settings=SETTINGS)
@model_options
@click.option("--prompt", metavar="TEXT", help="The text to continue. [default: stdin]")
@click.option("--batch-file", metavar="PATH", help="Prompts, a line each, or .jsonl; prints '[i] text' for each.")
@integer("--max-tokens", default=256, show_default=True, metavar="N", help="Most tokens to generate.")
@click.option("--stream", is_flag=True, help="Print the text as it is generated.")
@integer("--logprobs", metavar="N", heading="Sampling", help="In --json: log probabilities, and the N largest.")
@click.option("--echo", is_flag=True, help="Print the prompt before the text.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object a prompt.")
@integer("--context-len", metavar="N", help="Most positions of a sequence. [default: the model's]")
@number("--timeout", metavar="SECONDS", help="Stop generating after so long, with the text so far.")
@click.option("--trace-out", metavar="PATH", help="Write where the time goes: .json for Perfetto, .csv or .parquet.")
@sampling_options
@stop_options
@add_chat_options
@grammar_options
@reuse_options
@memory_options
@log_options
def command(
    model: str | None,
    safetensors: str | None,
    dtype: str,
    threads: int | None,
    prompt: str | None,
    batch_file: str | None,
    max_tokens: int,
    stream: bool,
    logprobs: int | None,
    echo: bool,
    as_json: bool,
    context_len: int | None,
    timeout: float | None,
    trace_out: str | None,
    sampling: SamplingOptions,
    stop: tuple[str, ...],
    stop_id: tuple[int, ...],
    include_stop: bool,
    chat: bool,
    system: str | None,
    tools: str | None,
    chat_arg: tuple[str, ...],
    interactive: bool,
    grammar: Grammar | None,
    full_head: bool,
    kv_dtype: str,
    verbose: int,
    quiet: int,
    **reuse: Any,
) -> int:
    """Generate text with MODEL: a .gguf file, a folder in Hugging Face layout, or a hub id.

    Without MODEL: the one that PYML_MODEL names, else the embedded default, Gemma 3 270M.
    """
    level = verbosity(verbose, quiet)
    source = check_model(model, safetensors, threads)
    exclusive({"--prompt <TEXT>": prompt is not None, "--batch-file <PATH>": batch_file is not None})
    for name, given in (
        ("--prompt <TEXT>", prompt is not None), ("--batch-file <PATH>", batch_file is not None), ("--json", as_json),
        ("--echo", echo), ("--trace-out <PATH>", trace_out is not None),
        ("--prompt-cache <PATH>", reuse["prompt_cache"] is not None),
    ):  # fmt: skip
        exclusive({"--interactive": interactive, name: given})
    chat_options = check_chat(chat or interactive, system, tools, chat_arg)
    exclusive({"--stream": stream, "--json": as_json})
    exclusive({"--echo": echo, "--json": as_json})
    if max_tokens < 0:
        raise click.UsageError(f"--max-tokens must be >= 0, got {max_tokens}")
    positive({"--context-len": context_len, "--timeout": timeout})
    if logprobs is not None and logprobs < 0:
        raise click.UsageError(f"--logprobs must be >= 0, got {logprobs}")
    if logprobs is not None and not as_json:
        raise click.UsageError("--logprobs is supported with --json alone")
    if stream and batch_file is not None:
        raise click.UsageError("--stream is not supported with --batch-file")
    check_reuse(reuse, batch_file)
    check_places(trace_out, reuse["prompt_cache"], reuse["output"], reuse["resume"])
    configure_logs(level)
    from ..options.generation import GenerationOptions

    task = Task(
        items=[] if interactive else _items(prompt, batch_file, level),
        options=GenerationOptions(
            max_tokens=max_tokens,
            sampling=sampling,
            logprobs=logprobs,
            stop=stop,
            stop_ids=stop_id,
            include_stop=include_stop,
            grammar=grammar,
            overflow=reuse["overflow"],
            n_keep=reuse["n_keep"],
        ),
        timeout=timeout,
        stream=stream,
        as_json=as_json,
        echo=echo,
        chat=chat_options,
        output=reuse["output"],
        resume=reuse["resume"],
        max_batch_size=reuse["max_batch_size"],
        prompt_cache=reuse["prompt_cache"],
        draft_model=reuse["draft_model"],
        speculate=not reuse["no_speculation"],
        threads=threads,
    )
    output = Output()
    lm = _load(source, dtype, threads, context_len, full_head, kv_dtype, level)
    if interactive:
        with lm:
            from .interactive import converse

            return converse(lm, task, output, level >= 0)
    generate = _generate_one if batch_file is None else _generate_batch
    if trace_out is None:
        return generate(lm, task, output)
    with lm.trace() as trace:
        try:
            return generate(lm, task, output)
        finally:  # of what was done, however it ended
            trace.save(trace_out)


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


def _load(
    source: str | None,
    dtype: str,
    threads: int | None,
    context_len: int | None,
    full_head: bool,
    kv_dtype: str,
    level: int,
) -> LanguageModel:
    from pyml_core import cpu

    from .. import load, logs

    logs.root.info("[runtime] SIMD: %s", cpu.level())
    logs.root.info("[runtime] Threads: %d", threads or cpu.default_threads())
    with ProgressBar("Loading", level >= 0) as bar:
        return load(
            source,
            dtype=dtype,
            threads=threads,
            context_length=context_len,
            screen=not full_head,
            kv_dtype=kv_dtype,
            progress=bar,
        )


# ---- generation


def _generate_one(lm: LanguageModel, task: Task, output: Output) -> int:
    from ..generation.generator import Generator
    from ..generation.iterator import Generation
    from ..generation.request import Request
    from .prompt_cache import save_prompt_cache, use_prompt_cache
    from .results import json_line

    generator = Generator(lm, task.timeout, task.speculate, task.load_draft_model())
    prompt = task.items[0].prompt
    with generator.preparing():
        request = Request(task.ids(lm, prompt), task.options)
    if task.prompt_cache is not None:
        use_prompt_cache(lm, task.prompt_cache)
    completion = generator.start(request)
    task.log_start(lm, completion.cache.max_length)
    start = time.perf_counter()
    shown = 0
    with interruptible(generator.cancel) as interrupted:
        try:
            if task.echo:
                output.write(prompt)
            for step in Generation(generator, completion):
                if task.stream:
                    output.write(step.text)
                    shown += len(step.text)
        finally:  # what there is, whatever happens
            if not task.as_json:
                output.write(completion.text[shown:])
                output.write("\n" if output.terminal else "")
    if task.as_json:
        output.write(json_line(lm, completion, completion.sequence))
    seconds = time.perf_counter() - start
    count = len(completion.tokens)
    speed = f"{count} tokens in {seconds:.2f}s ({count / seconds:.1f} tokens/sec)"
    stopped = ["Stopped at the timeout"] if completion.finish_reason == "timeout" else []
    task.log_end(speed if task.stream else f"Generated in {seconds:.2f}s", *stopped)
    if task.prompt_cache is not None:
        save_prompt_cache(completion, task.prompt_cache)
    return INTERRUPTED if interrupted else 0


def _generate_batch(lm: LanguageModel, task: Task, output: Output) -> int:
    from .batch import generate_batch

    return generate_batch(lm, task, output)
