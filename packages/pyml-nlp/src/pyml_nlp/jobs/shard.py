"""One shard: its rows are fed into a running batch as places become free, and its results become one file.

Results are collected in a :class:`.Part`. In the end they are written in the order of the rows, synchronised, and
renamed, and a small file says that the shard is done. So a shard that is made twice is the same bytes twice.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Container, Iterator
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, BinaryIO

from pyml_nn.files import NewFile

from ..embedding.embedder import Embedder
from . import digests
from .errors import JobError, Stopped
from .folder import DONE, JobFolder
from .journal import ENDING, Journal
from .manifest import Manifest
from .parquet import write_table
from .part import Part
from .results import QUARANTINED, Progress, ShardResult
from .rows import Reader, Row
from .store import named, sync_folder
from .tasks.embed import Vectors
from .tasks.prompts import Prompts
from .tasks.score import Scores
from .tasks.texts import Texts
from .tasks.work import Work

if TYPE_CHECKING:
    from .folder import JobModel

TOGETHER = 16
"""Most rows at a time by default."""

TOGETHER_EMBEDDED = 64
"""The same, of texts that are embedded: each is computed once."""

REPORT_SECONDS = 0.2
"""How often progress is reported at most."""

_PART, _OUT = ".part", ".out"


def never() -> bool:
    """Do not stop."""
    return False


class ShardRunner:
    """Runs shards of a job, one after the other, with a loaded model.

    Args:
        job: the job.
        lm: its model, as :meth:`.JobFolder.load` returns it.
        together: most rows at a time; None: :data:`TOGETHER` or :data:`TOGETHER_EMBEDDED`. Results do not depend on it.

    Make it after a fork. One thread at a time may use it, but for :meth:`cancel`.
    """

    def __init__(self, job: JobFolder, lm: JobModel, together: int | None = None) -> None:
        self._job = job
        manifest = job.manifest
        usual = TOGETHER_EMBEDDED if manifest.task.kind == "embed" else TOGETHER
        self._together = usual if together is None else together
        prompts = Prompts(manifest.task)
        self._reader = Reader(manifest, job.store, prompts.columns)
        self._work = _work(manifest, lm, prompts)
        self._texts_of_ids = manifest.output == "parquet"
        self._cancelled = self._stopping = False

    def cancel(self) -> None:
        """End the rows under way now, from a signal handler or another thread; :meth:`run` raises Stopped."""
        self._cancelled = True
        self._work.cancel()

    def run(
        self,
        shard: int,
        stop: Callable[[], bool] = never,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> ShardResult:
        """Make the results of a shard, or return them if it is done already.

        Args:
            shard: its index.
            stop: asked before each row: True ends the shard when the rows under way have ended.
            on_progress: called with what an earlier process has done, then at most every :data:`REPORT_SECONDS`.

        Raises:
            Stopped: the shard was stopped before its end. The rows that have ended are kept.
            ShardBusy: another process works on it.
            JobError: an input cannot be read, or the results cannot be written. What was written is kept.
        """
        finished = self._job.done(shard)
        if finished is not None:
            return finished
        part = Part(self._job.scratch_file(shard, _PART), self._job.digest)
        try:
            finished = self._job.done(shard)  # by a process that has let go of it just now
            if finished is not None:
                part.remove()
                return finished
            return self._run(shard, part, stop, on_progress)
        finally:
            part.close()

    def _run(
        self, shard: int, part: Part, stop: Callable[[], bool], on_progress: Callable[[Progress], None] | None
    ) -> ShardResult:
        journal = Journal(self._job.scratch_file(shard, ENDING), part.done)
        start, self._stopping = monotonic(), False
        try:
            try:
                self._make_all(shard, part, journal, stop, on_progress)
                seconds = journal.seconds + monotonic() - start
                result = self._finish(shard, part, seconds)
            except (JobError, KeyboardInterrupt):  # in order; anything else counts as a death of the process
                with suppress(JobError):
                    journal.end(monotonic() - start)
                raise
        finally:
            journal.close()
        with suppress(JobError):
            part.remove()
            self._job.scratch_file(shard, ENDING).unlink(missing_ok=True)
        return result

    # ---- rows

    def _make_all(
        self,
        shard: int,
        part: Part,
        journal: Journal,
        stop: Callable[[], bool],
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        """Make the results of all rows: of those that may have killed a process alone, after the others."""
        report = _Reporter(shard, part, on_progress)
        suspects = {index for index, past in journal.past.items() if past.suspect}

        def rows(left_out: Container[int]) -> Iterator[tuple[int, Row]]:
            for index, row in self._rows(shard):
                if self._asked_to_stop(stop):
                    return
                if index not in part.done and index not in left_out:
                    journal.row(index)
                    yield index, row

        def add(index: int, result: dict[str, Any]) -> None:
            self._add(part, index, result)
            report()

        for index, result in self._work.results(rows(suspects), self._together, add):
            add(index, result)
        for index, row in self._rows(shard) if suspects and not self._stopping else ():
            if index not in suspects or index in part.done:
                continue
            if self._asked_to_stop(stop):
                break
            past = journal.past[index]
            if past.quarantined:
                error = f"{QUARANTINED}its process died {past.deaths} times"
                add(index, {"id": row.id, "error": error})
            else:
                journal.row(index)
                for _, result in self._work.results(iter([(index, row)]), 1, add):
                    add(index, result)
        report(last=True)
        expected = self._job.manifest.shards[shard].rows
        if part.rows < expected and (self._stopping or self._asked_to_stop(stop)):
            raise Stopped(f"shard {shard}: stopped after {part.rows} of {expected} rows")
        if part.rows != expected:
            raise JobError(
                f"shard {shard}: expected {expected} rows, got {part.rows}: an input has changed since the plan"
            )

    def _rows(self, shard: int) -> Iterator[tuple[int, Row]]:
        return enumerate(self._reader.rows(shard))

    def _asked_to_stop(self, stop: Callable[[], bool]) -> bool:
        self._stopping = self._stopping or self._cancelled or stop()
        return self._stopping

    def _add(self, part: Part, index: int, result: dict[str, Any]) -> None:
        if self._texts_of_ids:
            result["id"] = str(result["id"])
        part.add(index, result)

    # ---- the end

    def _finish(self, shard: int, part: Part, seconds: float) -> ShardResult:
        """Write the file of the shard, then say that it is done."""
        job, output = self._job, self._job.manifest.output
        if job.store.local is not None:
            name = job.shard_name(shard, f".{output}")
            path = job.store.local / name
        else:
            name = job.shard_name(shard, f".{secrets.token_hex(6)}.{output}")
            path = job.scratch_file(shard, _OUT)
        with named(str(path), "written"):
            new = NewFile(path)
            try:
                digest = _write(new.file, part, output, name, job.manifest.task.kind == "embed")
                size = new.file.tell()
                new.place()
            finally:
                new.close()
            sync_folder(path.parent)
        if job.store.local is None:
            job.store.put(path, name)
            path.unlink(missing_ok=True)
        result = ShardResult(
            shard=shard,
            rows=part.rows,
            errors=part.errors,
            quarantined=part.quarantined,
            prompt_tokens=part.prompt_tokens,
            tokens=part.tokens,
            seconds=round(seconds, 3),
            digest=digest,
            bytes=size,
            file=name,
        )
        job.store.write(job.shard_name(shard, DONE), result.as_json().encode())
        return result


def _work(manifest: Manifest, lm: JobModel, prompts: Prompts) -> Work:
    """What makes the results of a job's rows."""
    if isinstance(lm, Embedder):
        return Vectors(lm, prompts)
    if manifest.task.kind == "score":
        return Scores(lm, prompts, manifest.task.top)
    return Texts(lm, prompts, manifest.options, manifest.seed)


class _Reporter:
    """Reports progress, not too often.

    Args:
        shard: index of the shard.
        part: its results.
        on_progress: called with the figures; None: nothing is.
    """

    def __init__(self, shard: int, part: Part, on_progress: Callable[[Progress], None] | None) -> None:
        self._shard = shard
        self._part = part
        self._on_progress = on_progress
        self._next = 0.0
        self(last=True)

    def __call__(self, last: bool = False) -> None:
        if self._on_progress is None or not (last or monotonic() >= self._next):
            return
        self._next = monotonic() + REPORT_SECONDS
        part = self._part
        self._on_progress(Progress(self._shard, part.rows, part.errors, part.prompt_tokens, part.tokens))


def _write(file: BinaryIO, part: Part, output: str, name: str, vectors: bool) -> str:
    """Write the lines of a shard, with or without vectors, and return their digest."""
    total = 0

    def lines() -> Iterator[bytes]:
        nonlocal total
        for line in part.lines():
            total += digests.of_line(line)
            yield line

    if output == "parquet":
        write_table(file, lines(), name, vectors)
    else:
        for line in lines():
            file.write(line + b"\n")
    file.flush()
    return digests.as_text(total)
