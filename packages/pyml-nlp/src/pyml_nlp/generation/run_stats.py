"""What a run of the model did for the submitted texts: the record that observers of a server get."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from .completion import Completion
from .model_run import ModelRun

if TYPE_CHECKING:
    from pyml_core.timing import Timings


class TextRun(NamedTuple):
    """One text in a call of the model.

    Attributes:
        sequence: the number of the text, :attr:`.Completion.sequence`.
        prompt_tokens: tokens of its prompt that were computed; 0 if it had its first token before.
        tokens: tokens that were chosen.
        drafted: drafted tokens that were checked.
        accepted: those of them that were right.
    """

    sequence: int
    prompt_tokens: int
    tokens: int
    drafted: int
    accepted: int


@dataclass(slots=True)
class RunStats:
    """One call of the model by a server, which may be several runs one after another.

    Attributes:
        ended_at: when it ended, as :func:`time.monotonic` counts.
        ms: milliseconds of the call, choosing tokens included.
        runs: runs of the model in it; more than one only if no prompt was part of it and nothing was drafted.
        texts: texts in it that had their first token before.
        prompts: other texts in it: some of their prompt was computed.
        prompt_tokens: tokens of prompts that were computed.
        tokens: tokens that were chosen, of all texts together; a text may end before the last of them.
        drafted: drafted tokens that were checked.
        accepted: those of them that were right, and count as chosen.
        running: texts with a place after the call.
        waiting: submitted texts without a place after the call.
        choosing_ms: milliseconds of choosing tokens.
        by_text: what it did for each text.
        timings: times of the operations of each run, if :attr:`.Server.wants_times` has asked for them; else none.
    """

    ended_at: float
    ms: float
    runs: int
    texts: int
    prompts: int
    prompt_tokens: int
    tokens: int
    drafted: int
    accepted: int
    running: int
    waiting: int
    choosing_ms: float
    by_text: tuple[TextRun, ...]
    timings: Sequence[Timings] = ()


class ObservedRun(NamedTuple):
    """A call of the model, as it was when it ended.

    Attributes:
        run: the call.
        completions: its texts, in the order of its inputs.
        n_texts: how many of them had begun; they come first.
        ended_at: when it ended, as :func:`time.monotonic` counts.
    """

    run: ModelRun
    completions: Sequence[Completion]
    n_texts: int
    ended_at: float


def run_stats(observed: ObservedRun, running: int, waiting: int, timings: Sequence[Timings] = ()) -> RunStats:
    """The record of a call."""
    run, completions, n_texts, ended_at = observed
    by_text: list[TextRun] = []
    tokens = drafted = accepted = prompt_tokens = longest = 0
    choosing_ms = 0.0
    # perf: one pass, because this runs after every call of the model
    for number, (completion, one, found) in enumerate(zip(completions, run.batch, run.found, strict=True)):
        count, computed, checked, right = len(found), 0, 0, 0
        if number >= n_texts:
            computed = len(one.ids)
        elif one.positions:
            checked, right = len(one.ids) - one.positions[0] - 1, count - 1
        by_text.append(TextRun(completion.sequence, computed, count, checked, right))
        tokens += count
        prompt_tokens += computed
        drafted += checked
        accepted += right
        if count > longest:
            longest = count
        for token in found:
            choosing_ms += token.choosing_ms
    return RunStats(
        ended_at=ended_at,
        ms=run.total_ms,
        runs=1 if drafted else max(1, longest),
        texts=n_texts,
        prompts=len(run.batch) - n_texts,
        prompt_tokens=prompt_tokens,
        tokens=tokens,
        drafted=drafted,
        accepted=accepted,
        running=running,
        waiting=waiting,
        choosing_ms=choosing_ms,
        by_text=tuple(by_text),
        timings=timings,
    )
