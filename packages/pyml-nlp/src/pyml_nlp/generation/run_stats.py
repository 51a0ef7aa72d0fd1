"""What a run of the model did for the submitted texts: the record that observers of a server get."""

from __future__ import annotations

from dataclasses import dataclass

from .model_run import ModelRun


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


def run_stats(run: ModelRun, n_texts: int, ended_at: float, running: int, waiting: int) -> RunStats:
    """The record of a call whose first ``n_texts`` inputs are those of texts that have begun."""
    begun, prompts = run.batch[:n_texts], run.batch[n_texts:]
    drafted = sum([len(one.ids) - one.positions[0] - 1 for one in begun if one.positions])
    tokens = sum([len(found) for found in run.found])
    longest = max([len(found) for found in run.found], default=0)
    return RunStats(
        ended_at=ended_at,
        ms=run.total_ms,
        runs=1 if drafted else max(1, longest),
        texts=len(begun),
        prompts=len(prompts),
        prompt_tokens=sum([len(one.ids) for one in prompts]),
        tokens=tokens,
        drafted=drafted,
        accepted=sum([len(found) for found, one in zip(run.found, begun, strict=False) if one.positions])
        - sum([1 for one in begun if one.positions]),
        running=running,
        waiting=waiting,
    )
