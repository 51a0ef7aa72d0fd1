"""The folder of a job: its manifest, the state of its shards, and the model that it wants."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pyml_core.errors import PymlError, quoted

from ..embedding.embedder import Embedder
from ..embedding.loading import load_embedder
from ..generation.prefix_cache import PrefixCache
from ..language_model import LanguageModel
from ..loading import load
from ..options.generation import GenerationOptions
from ..options.load import LoadOptions
from . import digests
from .errors import JobError, ManifestError
from .identity import check_machine, check_model
from .inputs import Scan
from .manifest import NAME, Manifest
from .results import ShardResult, read_results
from .rows import changed, input_size
from .store import Store, open_store
from .tasks.prompts import Prompts
from .tasks.texts import with_grammar

JobModel = LanguageModel | Embedder
"""What a job has: a model that writes texts, or an embedding model."""

SHARDS = "shards"
SUCCESS = "_SUCCESS"
DONE = ".done"

_SHARED = 4  # the prefix cache holds at least this many of the common beginnings of prompts
_REMAINS = (".part", ".attempts")
_TOTALS = ("rows", "errors", "quarantined", "prompt_tokens", "tokens")


class JobFolder:
    """A job as its files tell.

    Args:
        folder: path or URL.
        model: where the model is on this machine; None: where it was when the job was planned.

    Attributes:
        folder: as given.
        model: path or hub id of the model.
        store: the files of the folder.
        manifest: what the job is.
        digest: SHA-256 of the manifest.

    Raises:
        JobError: there is no job, or its manifest is damaged.
    """

    def __init__(self, folder: str | os.PathLike[str], model: str | os.PathLike[str] | None = None) -> None:
        self.folder = os.fspath(folder)
        self.store: Store = open_store(folder)
        self.manifest, self.digest = Manifest.read(self.store)
        self.model = self.manifest.model.name if model is None else os.fspath(model)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.folder}: {self.manifest.rows} rows in {self.n_shards} shards>"

    # ---- the model

    def check_identity(self) -> None:
        """Check that this process makes the job's texts: build, CPU level, and samples of the model's files.

        It takes milliseconds; no weights are loaded.

        Raises:
            IdentityError: it would make others. ManifestError: the manifest's options are damaged. PymlError: the
                model cannot be found or read.
        """
        check_machine(self.manifest.build, self.manifest.cpu_level)
        self._check_settings()
        check_model(self.model, self.manifest.model, whole=False)

    def _check_settings(self) -> None:
        """Check what workers would stumble over, one after the other."""
        manifest = self.manifest
        try:
            Prompts(manifest.task)
            LoadOptions(**manifest.load)
            GenerationOptions().replace(**with_grammar(manifest.options))
        except (PymlError, TypeError, KeyError) as error:
            raise ManifestError(f"{self.store.name(NAME)}: damaged: {quoted(str(error))}") from None

    def load(self, threads: int | None = None, progress: Callable[[int, int], None] | None = None) -> JobModel:
        """Load the model as the job wants it, after a check of all of its bytes.

        Args:
            threads: number of threads; None: what suits the machine.
            progress: as of :func:`pyml_nlp.load`.

        Raises:
            IdentityError: it is another model, or as of :meth:`check_identity`. PymlError: it cannot be loaded.
        """
        check_machine(self.manifest.build, self.manifest.cpu_level)
        check_model(self.model, self.manifest.model, whole=True)
        if self.manifest.task.kind == "embed":
            dtype = LoadOptions(**self.manifest.load).dtype
            return load_embedder(self.model, dtype=dtype, threads=threads, progress=progress)
        lm = load(self.model, LoadOptions(**self.manifest.load), threads=threads, progress=progress)
        kept = max(
            LoadOptions.prefix_cache_bytes, _SHARED * lm.kv_layout.bytes_for(max(1, self.manifest.shared_tokens))
        )
        lm.prefix_cache = PrefixCache(kept)
        return lm

    def check_inputs(self) -> None:
        """Read all JSONL inputs and compare them with those of the plan; workers compare sizes, and numbers of rows.

        Raises:
            JobError: an input has changed, or cannot be read.
        """
        for source in self.manifest.inputs:
            scan = Scan(source.path, None)
            for _ in scan:
                pass
            if (input_size(source.path), scan.rows, scan.digest) != (source.size, source.rows, source.digest):
                raise changed(source)

    # ---- shards

    @property
    def n_shards(self) -> int:
        """Number of shards."""
        return len(self.manifest.shards)

    def shard_name(self, shard: int, ending: str) -> str:
        """The name of a file of a shard."""
        return f"{SHARDS}/{shard:05d}{ending}"

    def scratch_file(self, shard: int, ending: str) -> Path:
        """A file of a shard that is not finished: in the job's folder, or on this machine if that is at a URL."""
        return self.scratch / f"{shard:05d}{ending}"

    @property
    def scratch(self) -> Path:
        """Where files of shards are that are not finished."""
        if self.store.local is not None:
            return self.store.local / SHARDS
        return Path(tempfile.gettempdir()) / f"pyml-jobs-{os.getuid()}" / self.digest[:16]

    def done(self, shard: int) -> ShardResult | None:
        """The result of a shard, if it is finished.

        Raises:
            JobError: it cannot be read.
        """
        name = self.shard_name(shard, DONE)
        try:
            data = self.store.read(name)
        except FileNotFoundError:
            return None
        result = ShardResult.from_json(data.decode(errors="replace"), self.store.name(name))
        expected = self.manifest.shards[shard].rows
        if (result.shard, result.rows) != (shard, expected):
            raise JobError(
                f"{self.store.name(name)}: expected {expected} rows of shard {shard}, "
                f"got {result.rows} of shard {result.shard}"
            )
        return result

    def finished(self) -> list[int]:
        """Indices of the shards that are finished, ascending; one look at the folder."""
        names = self.store.names(SHARDS)
        return [shard for shard in range(self.n_shards) if f"{shard:05d}{DONE}" in names]

    def pending(self) -> list[int]:
        """Indices of the other shards, those with the most tokens first."""
        finished, shards = set(self.finished()), self.manifest.shards
        return sorted(set(range(self.n_shards)) - finished, key=lambda shard: (-shards[shard].tokens, shard))

    def results(self) -> Iterator[ShardResult]:
        """The results of the shards that are finished, by index."""
        for shard in self.finished():
            result = self.done(shard)
            if result is not None:
                yield result

    def rows(self) -> Iterator[dict[str, Any]]:
        """The results of all rows of finished shards, in the order of the job."""
        for result in self.results():
            yield from read_results(self.store, result)

    def finish(self) -> dict[str, Any] | None:
        """Write the totals, if all shards are finished, and return them; else None. Several processes may do it.

        Raises:
            JobError: the folder cannot be read or written.
        """
        if len(self.finished()) < self.n_shards:
            return None
        if self.store.exists(SUCCESS):
            try:
                found: dict[str, Any] = json.loads(self.store.read(SUCCESS))
            except ValueError:
                raise JobError(f"{self.store.name(SUCCESS)}: expected JSON") from None
            return found
        if self.store.local is not None:
            for name in self.store.names(SHARDS):  # of a process that ended between the mark of a shard and this
                if name.endswith(_REMAINS):
                    self.store.remove(f"{SHARDS}/{name}")
        totals: dict[str, Any] = {"shards": self.n_shards, **dict.fromkeys(_TOTALS, 0), "seconds": 0.0}
        digest = 0
        for result in self.results():
            for key in (*_TOTALS, "seconds"):
                totals[key] += getattr(result, key)
            digest += int(result.digest, 16)
        totals["seconds"] = round(totals["seconds"], 3)
        totals["digest"] = digests.as_text(digest)
        self.store.write(SUCCESS, json.dumps(totals, indent=1).encode() + b"\n")
        return totals
