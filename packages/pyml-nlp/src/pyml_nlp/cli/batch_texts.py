"""``pyml-infer --batch-file``: many texts, to stdout in the order of the file or to a file as they end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pyml_core.errors import PymlError

from .. import logs
from ..generation.generator import Generator
from ..generation.request import Request
from ..generation.scheduler import MAX_BATCH_SIZE, Scheduler
from .ending import INTERRUPTED
from .interrupts import interruptible
from .main import tell_error
from .output import Output, ProgressBar
from .results import FINISHED, ResultFile, error_line, json_line
from .task import log_end, log_start, speed

if TYPE_CHECKING:
    from ..generation.completion import Completion
    from ..language_model import LanguageModel
    from .task import Job, Task


def generate_batch(lm: LanguageModel, job: Job, task: Task, output: Output) -> int:
    """Generate every text that the output does not have; returns the exit code.

    Raises:
        PymlError: some texts could not be made, and the output says of each why; or the output cannot be written.
    """
    generator = Generator(lm, **job.run)
    requests, problems = _requests(lm, job, generator)
    report = _Report(lm, job, task, output, requests)
    wanted = [index for index in requests if index not in report.done]
    longest = max((len(request.prompt) + request.options.max_tokens for request in requests.values()), default=0)
    log_start(lm, job, min(lm.context_length, longest), [f"Batch: {len(job.items)} prompts"])
    if report.done:
        logs.command.info("Resumed: %d of %d texts are finished", len(report.done), len(job.items))
    for index, problem in problems.items():
        report.fail(index, problem)
    start = time.perf_counter()
    scheduler = Scheduler(
        generator, [requests[index] for index in wanted], job.max_batch_size or MAX_BATCH_SIZE, lm.prefill_chunk
    )
    tokens, finished = 0, 0
    shown = task.talkative and (task.output is not None or not output.terminal)
    with interruptible(generator.cancel) as interrupted, ProgressBar("Generating", shown) as bar:
        for ended, completion in enumerate(scheduler, 1):
            tokens += len(completion.tokens)
            finished += completion.finish_reason in FINISHED
            index = wanted[completion.sequence]
            bar.clear()
            if completion.error is None:
                report.add(index, completion)
            else:
                report.fail(index, str(completion.error))
            bar(ended, len(wanted), f"{ended} of {len(wanted)} texts")
    report.close()
    seconds = time.perf_counter() - start
    log_end(
        f"{len(wanted)} {'prompt' if len(wanted) == 1 else 'prompts'}, {speed(tokens, seconds)}",
        *([f"{len(wanted) - finished} texts are not finished"] if finished < len(wanted) else []),
    )
    if interrupted:
        return INTERRUPTED
    return report.exit_code()


def _requests(lm: LanguageModel, job: Job, generator: Generator) -> tuple[dict[int, Request], dict[int, str]]:
    """The requests, and the problems of the other lines, by index; all lines are checked before any work."""
    requests, problems = {}, {}
    for index, item in enumerate(job.items):
        try:
            options = item.generation_options(job.options)
            with generator.preparing():
                request = Request(job.ids(lm, item), options)
            generator.check(request)
        except PymlError as error:
            problems[index] = str(error)
        else:
            requests[index] = request
    return requests, problems


class _Report:
    """Where texts and problems go: a file of JSON lines as they come, or stdout in the order of the batch.

    Attributes:
        done: indices of the texts that the file had already.
    """

    def __init__(
        self, lm: LanguageModel, job: Job, task: Task, output: Output, requests: Mapping[int, Request]
    ) -> None:
        self._lm = lm
        self._items = job.items
        self._task = task
        self._output = output
        self._file = None
        if task.output is not None:
            lengths = [len(requests[index].prompt) if index in requests else None for index in range(len(job.items))]
            self._file = ResultFile(task.output, task.resume, lengths)
        self.done = set() if self._file is None else self._file.done
        self._early: dict[int, str] = {}
        self._shown = 0
        self._problems: list[str] = []

    def add(self, index: int, completion: Completion) -> None:
        """A text that has ended."""
        item = self._items[index]
        if self._file is None and not self._task.as_json:
            self._put(index, f"[{index}] {item.prompt if self._task.echo else ''}{completion.text}\n")
        elif self._file is None or completion.finish_reason != "cancelled":  # which --resume makes again
            self._put(index, json_line(self._lm, completion, index, item.id))

    def fail(self, index: int, problem: str) -> None:
        """A line that has no text. Without JSON, stdout is for texts alone, and the problem goes to stderr."""
        item = self._items[index]
        line = f"line {item.line}: {problem}"
        self._problems.append(line)
        if self._file is None and not self._task.as_json:
            tell_error(line)
            self._put(index, "")
        else:
            self._put(index, error_line(item, index, problem))

    def _put(self, index: int, line: str) -> None:
        if self._file is not None:
            self._file.write(line)
            return
        self._early[index] = line
        while self._shown in self._early:
            self._output.write(self._early.pop(self._shown))
            self._shown += 1

    def close(self) -> None:
        """Close the file, if there is one."""
        if self._file is not None:
            self._file.close()

    def exit_code(self) -> int:
        """0, or 1 where lines have failed and stderr has told of each.

        Raises:
            PymlError: lines have failed, and the output tells of each.
        """
        if self._problems and (self._file is not None or self._task.as_json):
            raise PymlError(
                f"{len(self._problems)} of {len(self._items)} prompts failed, the first: {self._problems[0]}"
            )
        return 1 if self._problems else 0
