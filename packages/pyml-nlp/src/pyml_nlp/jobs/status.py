"""What the files of a job tell about it, from any terminal while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .claims import Claim, Claims
from .folder import SUCCESS, JobFolder
from .local import CLAIMS


@dataclass(frozen=True)
class Status:
    """The state of a job.

    Attributes:
        folder: the job's.
        shards_done, shards: finished shards, of all.
        rows_done, rows: rows of finished shards, of all.
        errors, quarantined: rows without a result, and those of them that end their process.
        prompt_tokens, tokens: of finished shards.
        running: shards that runs are making, with what is known of each.
        rows_per_second, tokens_per_second: of these, since each was begun.
        seconds_left: estimate; None: nothing runs, or too little is known.
        complete: whether the job is finished, and ``_SUCCESS`` says so.
    """

    folder: str
    shards_done: int
    shards: int
    rows_done: int
    rows: int
    errors: int
    quarantined: int
    prompt_tokens: int
    tokens: int
    running: tuple[tuple[int, Claim], ...]
    rows_per_second: float
    tokens_per_second: float
    seconds_left: float | None
    complete: bool

    def lines(self) -> Iterator[str]:
        """The state in words, a line for each fact."""
        yield f"{self.folder}: {self._state()}"
        percent = 100 * self.rows_done // max(self.rows, 1)
        yield f"Shards: {self.shards_done} of {self.shards}"
        yield f"Rows: {self.rows_done} of {self.rows} ({percent} %), {self.errors} with errors"
        if self.quarantined:
            yield f"Quarantined: {self.quarantined} rows, which end their process"
        yield f"Tokens: {self.prompt_tokens} of prompts, {self.tokens} generated"
        if self.seconds_left is not None:
            yield (
                f"Speed: {self.rows_per_second:.1f} rows/s, {self.tokens_per_second:.0f} tokens/s, "
                f"{_duration(self.seconds_left)} left"
            )
        for shard, claim in self.running:
            yield (
                f"Shard {shard}: {claim.rows} rows in {claim.since:.0f} s, "
                f"without progress for {claim.idle + claim.age:.0f} s, {claim}"
            )

    def _state(self) -> str:
        if self.complete:
            return "complete"
        if self.shards_done == self.shards:
            return "all shards are finished; a run completes the job"
        workers = len(self.running)
        if workers:
            return f"running, {workers} worker{'' if workers == 1 else 's'}"
        return "not running" if self.shards_done else "not started"


def status(job: JobFolder) -> Status:
    """The state of a job, from its files alone.

    Raises:
        JobError: the folder cannot be read, or a file in it is damaged.
    """
    rows = errors = quarantined = prompt_tokens = tokens = done = 0
    for result in job.results():
        done += 1
        rows += result.rows
        errors += result.errors
        quarantined += result.quarantined
        prompt_tokens += result.prompt_tokens
        tokens += result.tokens
    running = tuple(_running(job))
    under_way = sum(claim.rows for _, claim in running)
    row_rate = sum(claim.rows / claim.since for _, claim in running if claim.since > 0)
    token_rate = sum(claim.tokens / claim.since for _, claim in running if claim.since > 0)
    return Status(
        folder=job.folder,
        shards_done=done,
        shards=job.n_shards,
        rows_done=rows,
        rows=job.manifest.rows,
        errors=errors,
        quarantined=quarantined,
        prompt_tokens=prompt_tokens,
        tokens=tokens,
        running=running,
        rows_per_second=row_rate,
        tokens_per_second=token_rate,
        seconds_left=(job.manifest.rows - rows - under_way) / row_rate if row_rate else None,
        complete=done == job.n_shards and job.store.exists(SUCCESS),
    )


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _running(job: JobFolder) -> Iterator[tuple[int, Claim]]:
    if job.store.local is not None:
        yield from Claims(job.store.local / CLAIMS).all()
