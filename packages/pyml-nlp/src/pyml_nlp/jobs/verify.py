"""Everything counted again: the result files of a job against its manifest and its records."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np

from pyml_core.errors import quoted

from . import digests
from .errors import JobError
from .folder import SUCCESS, JobFolder
from .results import QUARANTINED, ShardResult, result_lines

MAX_PROBLEMS = 20
"""Problems that are described; the others are counted."""

_MAX_NAMED = 20  # rows in quarantine that are named


@dataclass(frozen=True)
class Report:
    """What was found.

    Attributes:
        folder: the job's.
        shards_done, shards: finished shards, of all.
        rows, errors, quarantined: as counted in the result files.
        duplicates: rows whose id another row has, too.
        quarantined_ids: ids of the first rows in quarantine.
        digest: of all result lines.
        problems: the first faults, a line each.
        n_problems: their number.
        complete: whether ``_SUCCESS`` says that the job is finished.
    """

    folder: str
    shards_done: int
    shards: int
    rows: int
    errors: int
    quarantined: int
    duplicates: int
    quarantined_ids: tuple[str | int, ...]
    digest: str
    problems: tuple[str, ...]
    n_problems: int
    complete: bool

    @property
    def ok(self) -> bool:
        """Whether the job is finished and nothing is wrong."""
        return self.complete and not self.n_problems and self.shards_done == self.shards

    def lines(self) -> Iterator[str]:
        """The report in words."""
        yield f"Shards: {self.shards_done} of {self.shards}"
        yield f"Rows: {self.rows}, {self.errors} with errors, {self.duplicates} duplicates"
        if self.quarantined:
            names = ", ".join(quoted(name) for name in self.quarantined_ids)
            more = ", ..." if self.quarantined > len(self.quarantined_ids) else ""
            yield f"Quarantined: {self.quarantined}: {names}{more}"
        yield f"Digest: {self.digest}"
        yield from self.problems
        if self.n_problems > len(self.problems):
            yield f"{self.n_problems - len(self.problems)} more problems"


class _Counts:
    """Adds up the lines of all shards."""

    def __init__(self) -> None:
        self.rows = self.errors = self.quarantined = 0
        self.prompt_tokens = self.tokens = 0
        self.quarantined_ids: list[str | int] = []
        self.digests: list[str] = []
        self.problems: list[str] = []
        self.n_problems = 0

    def problem(self, text: str) -> None:
        self.n_problems += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(text)


def verify(job: JobFolder) -> Report:
    """Read all result files of a job, and compare rows, digests and totals. Eight bytes a row are kept in memory.

    Raises:
        JobError: the folder cannot be read.
    """
    counts, hashes, done = _Counts(), [], 0
    for result in job.results():
        done += 1
        hashes.append(_verify_shard(job, result, counts))
    every = np.concatenate(hashes) if hashes else np.zeros(0, np.uint64)
    duplicates = int(every.size - np.unique(every).size)
    if duplicates:
        counts.problem(f"{job.folder}: {duplicates} rows have the id of another row")
    digest = digests.add(*counts.digests)
    complete = _verify_totals(job, counts, done, digest)
    return Report(
        job.folder, done, job.n_shards, counts.rows, counts.errors, counts.quarantined, duplicates,
        tuple(counts.quarantined_ids), digest, tuple(counts.problems), counts.n_problems, complete,
    )  # fmt: skip


def _verify_shard(job: JobFolder, result: ShardResult, counts: _Counts) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Count a shard; returns a hash of the id of each row."""
    name, ids, lines = job.store.name(result.file), bytearray(), 0
    errors = quarantined = prompt_tokens = tokens = total = 0
    try:
        for line in result_lines(job.store, result):
            lines += 1
            total += digests.of_line(line)
            row = _row(line)
            if row is None:
                counts.problem(f"{name} line {lines}: expected a JSON object with an id, got {quoted(line)}")
                continue
            ids += blake2b(json.dumps(row["id"]).encode(), digest_size=8).digest()
            error = row.get("error")
            errors += error is not None
            if isinstance(error, str) and error.startswith(QUARANTINED):
                quarantined += 1
                if len(counts.quarantined_ids) < _MAX_NAMED:
                    counts.quarantined_ids.append(row["id"])
            prompt_tokens += _tokens(row, "prompt_tokens")
            tokens += _tokens(row, "tokens")
    except JobError as error:
        counts.problem(str(error))
        return np.frombuffer(bytes(ids), np.uint64)
    digest = digests.as_text(total)
    wanted = job.manifest.shards[result.shard].rows
    for what, expected, found in (
        ("rows, by the manifest", wanted, lines), ("rows", result.rows, lines),
        ("rows with errors", result.errors, errors),
        ("quarantined rows", result.quarantined, quarantined), ("tokens", result.tokens, tokens),
        ("tokens of prompts", result.prompt_tokens, prompt_tokens), ("as its digest", result.digest, digest),
    ):  # fmt: skip
        if expected != found:
            counts.problem(f"{name}: expected {expected} {what}, found {found}")
    counts.rows += lines
    counts.errors += errors
    counts.quarantined += quarantined
    counts.prompt_tokens += prompt_tokens
    counts.tokens += tokens
    counts.digests.append(digest)
    return np.frombuffer(bytes(ids), np.uint64)


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("id"), str | int) else None


def _tokens(row: dict[str, Any], name: str) -> int:
    found = row.get(name)
    return found if isinstance(found, int) else 0


def _verify_totals(job: JobFolder, counts: _Counts, done: int, digest: str) -> bool:
    """Whether there is a ``_SUCCESS``; its totals are compared."""
    name = job.store.name(SUCCESS)
    try:
        data = job.store.read(SUCCESS)
    except FileNotFoundError:
        return False
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        counts.problem(f"{name}: expected the totals of the job, got {quoted(data)}")
        return True
    expected = {
        "shards": done, "rows": counts.rows, "errors": counts.errors, "quarantined": counts.quarantined,
        "prompt_tokens": counts.prompt_tokens, "tokens": counts.tokens, "digest": digest,
    }  # fmt: skip
    for key, value in expected.items():
        if found.get(key) != value:
            counts.problem(f"{name}: expected {value} for {quoted(key)}, found {quoted(found.get(key))}")
    return True
