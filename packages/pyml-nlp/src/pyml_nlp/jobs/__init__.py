"""Jobs of many rows that survive anything: planned once, run by any number of processes, in shards that are files.

>>> import pyml_nlp.jobs
>>> job = pyml_nlp.jobs.plan("in/*.jsonl", "job/", model="m.gguf", max_tokens=200, seed=7)
>>> for done in job.run():
...     print(done.shard, done.rows, done.tokens)
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .errors import IdentityError as IdentityError
from .errors import JobError as JobError
from .errors import ManifestError as ManifestError
from .errors import ShardBusy as ShardBusy
from .errors import Stopped as Stopped
from .job import Job as Job
from .manifest import Manifest as Manifest
from .manifest import Shard as Shard
from .planning import Inputs, plan_manifest
from .results import Progress as Progress
from .results import ShardResult as ShardResult
from .shard import ShardRunner as ShardRunner

if TYPE_CHECKING:
    from typing import Unpack

    from ..options.keywords import GenerationKeywords
    from ..options.load import LoadOptions

__all__ = [
    "IdentityError",
    "Job",
    "JobError",
    "Manifest",
    "ManifestError",
    "Progress",
    "Shard",
    "ShardBusy",
    "ShardResult",
    "ShardRunner",
    "Stopped",
    "open",
    "plan",
]


def open(folder: str | os.PathLike[str], model: str | os.PathLike[str] | None = None) -> Job:
    """Open a job.

    Args:
        folder: path or URL of its folder.
        model: where the model is on this machine; None: where it was when the job was planned.

    Raises:
        ManifestError: there is no job, or its manifest is damaged.
        JobError: the folder cannot be read.
    """
    return Job(folder, model)


def plan(
    inputs: Inputs,
    folder: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] | None = None,
    task: str = "generate",
    prompt: str | None = None,
    prompt_column: str | None = None,
    messages_column: str | None = None,
    system: str | None = None,
    id_column: str = "id",
    row_options: Sequence[str] = (),
    top: int | None = None,
    output: str = "jsonl",
    rows_per_shard: int | None = None,
    tokens_per_shard: int | None = None,
    group: bool = False,
    cpu_level: str | None = None,
    load_options: LoadOptions | None = None,
    **options: Unpack[GenerationKeywords],
) -> Job:
    """Plan a job: find the rows, cut them into shards, and write the manifest. No weights are loaded.

    Args:
        inputs: JSONL and Parquet files: paths, patterns, folders, or URLs of fsspec; one, or several.
        folder: where the job is to be: path or URL.
        model: see :func:`pyml_nlp.load`.
        task: ``"generate"`` continues prompts, ``"chat"`` answers them, ``"score"`` gives their log probabilities,
            ``"embed"`` their vectors.
        prompt: a template over columns, such as ``"Translate: {text}"``.
        prompt_column: the column with prompts.
        messages_column: the column with lists of messages. Without any of these three, rows are as the lines of a batch
            file: ``prompt`` or ``messages``, with options of their own.
        system: a system message of all chats.
        id_column: the column with names of rows; a row without one is called by its file and number.
        row_options: columns that are options of generation, if columns are data.
        top: of scores: report this many most probable tokens in each place.
        output: ``"jsonl"`` or ``"parquet"``.
        rows_per_shard, tokens_per_shard: size of a shard; neither: by the size of the job.
        group: put rows whose prompts begin alike next to each other.
        cpu_level: the level that all workers have to have; None: that of this process.
        load_options: how the model is loaded.
        options: options of generation that differ from the model's defaults. ``seed`` (0) is the job's: rows without a
            seed of their own get a hash of it and their id.

    Returns:
        The job. If the folder has the same plan already, that one.

    Raises:
        JobError: an input cannot be read, there are no rows, or the folder has another plan.
        ArgumentError: an invalid argument.
        PymlError: the model cannot be found or read.
    """
    seed = options.pop("seed", None)
    store = plan_manifest(
        inputs,
        folder,
        model=model,
        task=task,
        prompt=prompt,
        prompt_column=prompt_column,
        messages_column=messages_column,
        system=system,
        id_column=id_column,
        row_options=row_options,
        top=top,
        seed=0 if seed is None else seed,
        output=output,
        rows_per_shard=rows_per_shard,
        tokens_per_shard=tokens_per_shard,
        group=group,
        cpu_level=cpu_level,
        load_options=load_options,
        options=dict(options),
    )
    return Job(store.url, model)
