"""``pyml-infer``: text from a prompt. stdout carries the text and nothing else."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .chat import ChatOptions, add_chat_options, check_chat
from .interactive import converse
from .interrupts import interruptible
from .main import INTERRUPTED
from .options import (
    SETTINGS,
    Command,
    check_model,
    configure_logs,
    exclusive,
    integer,
    log_options,
    model_options,
    number,
    positive,
    utf8,
    verbosity,
)
from .output import Output, ProgressBar
from .sampling import grammar_options, sampling_options, stop_options

if TYPE_CHECKING:
    from ..generation.completion import Completion
    from ..language_model import LanguageModel
    from ..sampling import Sampling
    from ..structured.grammar import Grammar


@dataclass(frozen=True)
class Task:
    """What to generate and how to print it, all checked.

    Attributes:
        prompts: one, or those of a batch file.
        batch: whether they come from a batch file, whose texts are numbered.
        options: of each :class:`.Request`.
        chat: how to make chats of prompts; None: they are texts to continue.
    """

    prompts: list[str]
    batch: bool
    options: dict[str, Any]
    timeout: float | None
    stream: bool
    as_json: bool
    echo: bool
    chat: ChatOptions | None

    def ids(self, lm: LanguageModel, prompt: str) -> list[int]:
        """What the model is given for a prompt."""
        return lm.ids(prompt) if self.chat is None else self.chat.ids(lm, prompt)


@click.command("infer", cls=Command, context_settings=SETTINGS)
@model_options
@click.option("--prompt", metavar="TEXT", help="The text to continue. [default: stdin]")
@click.option("--batch-file", metavar="PATH", help="A file with a prompt a line; prints '[i] text' for each.")
@integer("--max-tokens", default=256, show_default=True, metavar="N", help="Most tokens to generate.")
@click.option("--stream", is_flag=True, help="Print the text as it is generated.")
@integer("--logprobs", metavar="N", help="With --json: each token's log probability, and the N largest.")
@click.option("--echo", is_flag=True, help="Print the prompt before the text.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object a prompt.")
@integer("--context-len", metavar="N", help="Most positions of a sequence. [default: the model's]")
@number("--timeout", metavar="SECONDS", help="Stop generating after so long, with the text so far.")
@click.option("--trace-out", metavar="PATH", help="Write where the time goes: .json for Perfetto, .csv or .parquet.")
@sampling_options
@stop_options
@add_chat_options
@grammar_options
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
    sampling: Sampling,
    stop: tuple[str, ...],
    stop_id: tuple[int, ...],
    include_stop: bool,
    chat: bool,
    system: str | None,
    chat_arg: tuple[str, ...],
    interactive: bool,
    grammar: Grammar | None,
    verbose: int,
    quiet: int,
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
    ):  # fmt: skip
        exclusive({"--interactive": interactive, name: given})
    chat_options = check_chat(chat or interactive, system, chat_arg)
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
    if trace_out is not None:
        _check_trace(trace_out)
    configure_logs(level)
    if interactive and chat_options is not None:
        options: dict[str, Any] = {
            "max_tokens": max_tokens,
            "stop": stop,
            "stop_ids": stop_id,
            "include_stop": include_stop,
        }
        options |= vars(sampling) | {"timeout": timeout}
        if grammar is not None:
            options[grammar.kind] = grammar.source
        output = Output()
        with _load(source, dtype, threads, context_len, level) as lm:
            return converse(lm, chat_options, options, output, level >= 0)
    task = Task(
        prompts=[_prompt(prompt, level)] if batch_file is None else _batch(batch_file),
        batch=batch_file is not None,
        options={
            "max_tokens": max_tokens,
            "sampling": sampling,
            "logprobs": logprobs,
            "stop": stop,
            "stop_ids": stop_id,
            "include_stop": include_stop,
            "grammar": grammar,
        },
        timeout=timeout,
        stream=stream,
        as_json=as_json,
        echo=echo,
        chat=chat_options,
    )
    output = Output()
    lm = _load(source, dtype, threads, context_len, level)
    generate = _generate_batch if task.batch else _generate_one
    if trace_out is None:
        return generate(lm, task, output)
    with lm.trace() as trace:
        try:
            return generate(lm, task, output)
        finally:  # of what was done, however it ended
            trace.save(trace_out)


# ---- input


def _prompt(prompt: str | None, level: int) -> str:
    prompt = _stdin(level) if prompt is None else utf8("--prompt", prompt)
    if not prompt.strip():
        raise click.UsageError("No prompt provided (use --prompt or pipe text to stdin)")
    return prompt


def _stdin(level: int) -> str:
    if level >= 0:
        print("Reading prompt from stdin...", file=sys.stderr, flush=True)
    if sys.stdin is None:
        return ""
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        byte = f"{error.object[error.start]:#04x}"
        raise click.UsageError(f"stdin: expected UTF-8, got byte {byte} at {error.start}") from None


def _batch(path: str) -> list[str]:
    """The lines that are not blank."""
    from pyml_core.errors import PymlError

    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise PymlError(f"Failed to read batch file: {path}: {getattr(error, 'strerror', None) or error}") from None
    prompts = [line.removesuffix("\r") for line in text.split("\n") if line.strip()]
    if not prompts:
        raise PymlError(f"Batch file is empty: {path}")
    return prompts


def _check_trace(path: str) -> None:
    """What is wrong with a place for a trace, before any work."""
    from pyml_core.errors import PymlError
    from pyml_nn.trace_files import ENDINGS, check_ending

    if not path.lower().endswith(ENDINGS):
        raise click.UsageError(f"--trace-out must end in {', '.join(ENDINGS)}, got {path!r}")
    check_ending(path)
    folder = Path(path).parent
    if not os.access(folder, os.W_OK):
        reason = "it cannot be written to" if folder.is_dir() else "there is no such folder"
        raise PymlError(f"{path}: the trace cannot be written: {folder}: {reason}")


def _load(source: str | None, dtype: str, threads: int | None, context_len: int | None, level: int) -> LanguageModel:
    from pyml_core import cpu

    from .. import load, logs

    logs.root.info("[runtime] SIMD: %s", cpu.level())
    logs.root.info("[runtime] Threads: %d", threads or cpu.default_threads())
    with ProgressBar("Loading", level >= 0) as bar:
        return load(source, dtype, threads, context_len, progress=bar)


# ---- generation


def _generate_one(lm: LanguageModel, task: Task, output: Output) -> int:
    from ..generation.generator import Generator
    from ..generation.iterator import Generation
    from ..generation.request import Request

    generator = Generator(lm, task.timeout)
    completion = generator.start(Request(task.ids(lm, task.prompts[0]), **task.options))
    _log_start(lm, task, completion.cache.max_length)
    start = time.perf_counter()
    shown = 0
    with interruptible(generator.cancel) as interrupted:
        try:
            if task.echo:
                output.write(task.prompts[0])
            for step in Generation(generator, completion):
                if task.stream:
                    output.write(step.text)
                    shown += len(step.text)
        finally:  # what there is, whatever happens
            if not task.as_json:
                output.write(completion.text[shown:])
                output.write("\n" if output.terminal else "")
    if task.as_json:
        output.write(_json(lm, completion))
    seconds = time.perf_counter() - start
    count = len(completion.tokens)
    if task.stream:
        _log_end(f"{count} tokens in {seconds:.2f}s ({count / seconds:.1f} tokens/sec)", completion.finish_reason)
    else:
        _log_end(f"Generated in {seconds:.2f}s", completion.finish_reason)
    return INTERRUPTED if interrupted else 0


def _generate_batch(lm: LanguageModel, task: Task, output: Output) -> int:
    from pyml_core.errors import PymlError

    from ..generation.generator import Generator
    from ..generation.request import Request
    from ..generation.scheduler import Scheduler

    generator = Generator(lm, task.timeout)
    requests = []
    for index, prompt in enumerate(task.prompts):
        try:
            requests.append(Request(task.ids(lm, prompt), **task.options))
            generator.check(requests[-1])
        except PymlError as error:
            raise type(error)(f"prompt {index}: {error}") from None
    longest = max(len(request.prompt) for request in requests)
    _log_start(lm, task, min(lm.context_length, longest + task.options["max_tokens"]))
    start = time.perf_counter()
    ended: dict[int, Completion] = {}
    with interruptible(generator.cancel) as interrupted:
        shown = 0
        for completion in Scheduler(generator, requests, chunk=lm.prefill_chunk):
            ended[completion.sequence] = completion
            while shown in ended:  # in the order of the file
                _write_numbered(lm, ended.pop(shown), task, output)
                shown += 1
    seconds = time.perf_counter() - start
    _log_end(f"{len(requests)} prompts in {seconds:.2f}s ({len(requests) / seconds:.1f} prompts/sec)", None)
    return INTERRUPTED if interrupted else 0


def _write_numbered(lm: LanguageModel, completion: Completion, task: Task, output: Output) -> None:
    if task.as_json:
        output.write(_json(lm, completion))
        return
    prompt = task.prompts[completion.sequence] if task.echo else ""
    output.write(f"[{completion.sequence}] {prompt}{completion.text}\n")


def _json(lm: LanguageModel, completion: Completion) -> str:
    shown: dict[str, Any] = {
        "index": completion.sequence,
        "prompt_tokens": len(completion.prompt),
        "tokens": len(completion.tokens),
        "text": completion.text,
        "finish_reason": completion.finish_reason,
        "prefill_ms": round(completion.prefill_ms, 3),
        "decode_ms": round(completion.decode_ms, 3),
    }
    if completion.request.logprobs is not None:
        pairs = zip(completion.tokens, completion.logprobs, strict=True)
        shown["logprobs"] = [
            {**_token(lm, token, logprob), "top": [_token(lm, *other) for other in top]}
            for token, (logprob, top) in pairs
        ]
    return json.dumps(shown, ensure_ascii=False) + "\n"


def _token(lm: LanguageModel, token: int, logprob: float) -> dict[str, Any]:
    text = lm.tokenizer.token_bytes(token).decode(errors="replace")
    return {"token": token, "text": text, "logprob": round(logprob, 6)}


def _log_start(lm: LanguageModel, task: Task, length: int) -> None:
    from .. import logs

    layout = lm.kv_layout
    logs.root.info(
        "  KV cache: %.1f MB (%dlayers x %dheads x %dseq x %ddim x %s x 2)",
        layout.bytes_for(length) / 1e6, layout.n_layers, layout.n_kv_heads, length, layout.head_dim, layout.dtype,
    )  # fmt: skip
    if task.timeout is not None:
        logs.root.info("  Timeout: %.1fs", task.timeout)
    if task.batch:
        logs.root.info("  Batch: %d prompts", len(task.prompts))
    logs.root.info("---")


def _log_end(line: str, finish_reason: str | None) -> None:
    from .. import logs

    logs.root.info("---")
    logs.root.info("  %s", line)
    if finish_reason == "timeout":
        logs.root.info("  Stopped at the timeout")
