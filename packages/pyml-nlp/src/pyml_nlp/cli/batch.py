"""``pyml-infer --batch-file``: many texts, to stdout in the order of the file or to a file as they end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pyml_core.errors import PymlError

from ..generation.generator import Generator
from ..generation.request import Request
from ..generation.scheduler import TOGETHER, Scheduler
from .ending import INTERRUPTED
from .interrupts import interruptible
from .output import Output
from .results import FINISHED, ResultFile, json_line

if TYPE_CHECKING:
    from ..generation.completion import Completion
    from ..language_model import LanguageModel
    from .task import Task


def generate_batch(lm: LanguageModel, task: Task, output: Output) -> int:
    """Generate every text of a task that is wanted; returns the exit code."""
    generator = Generator(lm, task.timeout, task.speculate, task.load_draft_model())
    requests = _requests(lm, task, generator)
    results = None
    if task.output is not None:
        results = ResultFile(task.output, task.resume, [len(request.prompt) for request in requests])
    wanted = [index for index in range(len(requests)) if results is None or index not in results.done]
    longest = max(len(request.prompt) + request.max_tokens for request in requests)
    task.log_start(lm, min(lm.context_length, longest), [f"Batch: {len(requests)} prompts", *_found(requests, wanted)])
    start = time.perf_counter()
    together = task.together or TOGETHER
    scheduler = Scheduler(generator, [requests[index] for index in wanted], together, lm.prefill_chunk)
    tokens, finished = 0, 0
    early: dict[int, Completion] = {}
    shown = 0
    with interruptible(generator.cancel) as interrupted:
        for completion in scheduler:
            tokens += len(completion.tokens)
            finished += completion.finish_reason in FINISHED
            if results is not None:
                if completion.finish_reason != "cancelled":  # it is made again by --resume
                    index = wanted[completion.sequence]
                    results.write(json_line(lm, completion, index, task.items[index].id))
                continue
            early[completion.sequence] = completion
            while shown in early:
                output.write(_shown(lm, early.pop(shown), task))
                shown += 1
    if results is not None:
        results.close()
    seconds = max(time.perf_counter() - start, 1e-9)
    task.log_end(
        f"{len(wanted)} prompts in {seconds:.2f}s ({len(wanted) / seconds:.1f} prompts/sec)",
        f"{tokens} tokens ({tokens / seconds:.1f} tokens/sec)",
        *([f"{len(wanted) - finished} texts are not finished"] if finished < len(wanted) else []),
    )
    return INTERRUPTED if interrupted else 0


def _requests(lm: LanguageModel, task: Task, generator: Generator) -> list[Request]:
    """What is wanted, checked before any work; an error names the prompt."""
    requests = []
    for index, item in enumerate(task.items):
        try:
            requests.append(Request(task.ids(lm, item.prompt), **item.request_options(task.options)))
            generator.check(requests[-1])
        except PymlError as error:
            raise type(error)(f"prompt {index}: {error}") from None
    return requests


def _found(requests: Sequence[Request], wanted: Sequence[int]) -> list[str]:
    done = len(requests) - len(wanted)
    return [f"Resumed: {done} of them are finished"] if done else []


def _shown(lm: LanguageModel, completion: Completion, task: Task) -> str:
    item = task.items[completion.sequence]
    if task.as_json:
        return json_line(lm, completion, completion.sequence, item.id)
    return f"[{completion.sequence}] {item.prompt if task.echo else ''}{completion.text}\n"
