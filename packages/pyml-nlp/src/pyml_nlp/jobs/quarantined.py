"""Rows in quarantine: those that ended their process again and again."""

from __future__ import annotations

from collections.abc import Iterable

from pyml_core.errors import quoted

from .folder import JobFolder
from .results import QUARANTINED, read_results

MAX_NAMED = 10


def quarantined_rows(job: JobFolder, shards: Iterable[int]) -> tuple[int, list[str]]:
    """The number of rows in quarantine of these shards, and the quoted ids of the first ones.

    Raises:
        JobError: a result file cannot be read.
    """
    count, ids = 0, list[str]()
    for shard in shards:
        result = job.done(shard)
        if result is None or not result.quarantined:
            continue
        count += result.quarantined
        if len(ids) < MAX_NAMED:
            found = (row for row in read_results(job.store, result) if str(row.get("error")).startswith(QUARANTINED))
            ids += [quoted(row.get("id")) for row in found]
    return count, ids[:MAX_NAMED]
