"""``pyml-infer --n`` and ``--best-of``: several texts of one prompt, which is computed once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..generation.samples import best, sample_requests
from ..generation.scheduler import MAX_BATCH_SIZE
from .ending import INTERRUPTED
from .interrupts import interruptible
from .results import json_line
from .task import log_end, log_start, speed

if TYPE_CHECKING:
    from ..generation.batch import Batch
    from ..generation.completion import Completion
    from ..language_model import LanguageModel
    from .output import Output
    from .task import Job, Task


def generate_samples(lm: LanguageModel, job: Job, task: Task, output: Output) -> int:
    """Generate the texts and print them, each as soon as it and those before it have ended; returns the exit code.

    The best ones are printed after the last one has ended, the best first.
    """
    item = job.items[0]
    ids = job.ids(lm, item)
    requests = sample_requests(ids, job.options, task.n, task.best_of)
    batch = lm.generate_batch(requests, max_batch_size=job.max_batch_size or MAX_BATCH_SIZE, **job.run)
    longest = min(lm.context_length, len(ids) + job.options.max_tokens)
    log_start(lm, job, longest, [f"Texts of the prompt: {len(requests)}"])
    start, tokens = time.perf_counter(), 0

    def counted(batch: Batch) -> Iterator[Completion]:
        nonlocal tokens
        for completion in batch:
            tokens += len(completion.tokens)
            yield completion

    with interruptible(batch.cancel) as interrupted:
        chosen = counted(batch) if task.best_of is None else best(counted(batch), task.n)
        for index, completion in enumerate(chosen):
            output.write(_shown(lm, task, output, completion, index, item.prompt))
    log_end(f"{len(requests)} texts, {speed(tokens, time.perf_counter() - start)}")
    return INTERRUPTED if interrupted else 0


def _shown(lm: LanguageModel, task: Task, output: Output, completion: Completion, index: int, prompt: str) -> str:
    if task.as_json:
        return json_line(lm, completion, index)
    text = (prompt if task.echo else "") + completion.text
    if task.n == 1:  # as without --best-of
        return text + ("\n" if output.terminal else "")
    return f"[{index}] {text}\n"
