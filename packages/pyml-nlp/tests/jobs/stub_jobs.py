"""Jobs without a model: what a worker does with a shard is a function of the test."""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pyml_nlp.jobs import digests
from pyml_nlp.jobs.errors import Stopped
from pyml_nlp.jobs.folder import JobFolder
from pyml_nlp.jobs.results import Progress, ShardResult
from pyml_nlp.jobs.store import LocalStore


@dataclass
class StubShard:
    """As of a manifest."""

    rows: int
    tokens: int


class StubManifest:
    """As many shards as wanted, of ten rows each."""

    def __init__(self, shards: int) -> None:
        self.shards = [StubShard(10, 100)] * shards
        self.rows = 10 * shards


class StubModel:
    """A model that is not used."""

    def __enter__(self) -> StubModel:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is freed."""


class StubJob:
    """A folder with ``.done`` files."""

    def __init__(self, folder: Path, shards: int) -> None:
        self.folder = str(folder)
        self.store = LocalStore(self.folder)
        self.manifest = StubManifest(shards)
        self.n_shards = shards
        (folder / "shards").mkdir(parents=True, exist_ok=True)

    def check_identity(self) -> None:
        """It is always the same."""

    def load(self, threads: int | None = None) -> StubModel:
        return StubModel()

    def scratch_file(self, shard: int, ending: str) -> Path:
        return Path(self.folder) / f"shards/{shard:05d}{ending}"

    def done(self, shard: int) -> ShardResult | None:
        try:
            return ShardResult.from_json(self.store.read(f"shards/{shard:05d}.done").decode(), "")
        except FileNotFoundError:
            return None

    def results(self) -> Iterator[ShardResult]:
        yield from filter(None, map(self.done, range(self.n_shards)))

    def pending(self) -> list[int]:
        return [shard for shard in range(self.n_shards) if self.done(shard) is None]

    def lines(self, name: str) -> list[str]:
        """The lines of a file of the test's own."""
        path = Path(self.folder) / name
        return path.read_text().splitlines() if path.exists() else []

    def note(self, name: str, line: object) -> None:
        """Append a line to such a file, from any process."""
        with (Path(self.folder) / name).open("a") as file:
            file.write(f"{line}\n")


Make = Callable[[StubJob, int, Callable[[], bool]], None]
"""Works on a shard; its last argument tells whether it is to stop."""


def runner(make: Make) -> type:
    """In place of ShardRunner."""

    class Runner:
        def __init__(self, job: JobFolder, lm: object, together: int | None) -> None:
            self._job = cast("StubJob", job)
            self._cancelled = False

        def run(self, shard: int, stop: Callable[[], bool], on_progress: Callable[[Progress], None]) -> ShardResult:
            on_progress(Progress(shard, 0, 0, 0, 0))
            self._job.note("made", shard)
            make(self._job, shard, lambda: self._cancelled or stop())
            if stop() or self._cancelled:
                raise Stopped("stopped")
            on_progress(Progress(shard, 10, 1, 50, 40))
            result = ShardResult(shard, 10, 1, 0, 50, 40, 0.1, digests.ZERO, 5, "shards/0.jsonl")
            self._job.store.write(f"shards/{shard:05d}.done", result.as_json().encode())
            return result

        def cancel(self) -> None:
            self._cancelled = True

    return Runner


def at_once(job: StubJob, shard: int, stop: Callable[[], bool]) -> None:
    """It takes no time."""


def for_long(job: StubJob, shard: int, stop: Callable[[], bool]) -> None:
    """It takes a minute, but stops when it is asked to."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not stop():
        time.sleep(0.01)


def stuck(job: StubJob, shard: int, stop: Callable[[], bool]) -> None:
    """It takes a minute whatever it is asked."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    time.sleep(60)


def dies(times: int, number: int = signal.SIGKILL, which: int = 0) -> Make:
    """A shard's process dies as often as this."""

    def make(job: StubJob, shard: int, stop: Callable[[], bool]) -> None:
        if shard == which and len(job.lines("deaths")) < times:
            job.note("deaths", os.getpid())
            faulthandler.disable()  # pytest's would tell of it
            os.kill(os.getpid(), number)

    return make


def read_json(path: Path) -> Any:
    """A file of JSON."""
    return json.loads(path.read_text())
