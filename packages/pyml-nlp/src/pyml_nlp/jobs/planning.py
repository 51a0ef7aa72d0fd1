"""Planning: from inputs and options to a manifest. No weights are loaded, and no row is kept."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from pyml_core import cpu
from pyml_core.errors import PymlError, quoted

from ..embedding.loading import is_embedding_model
from ..errors import ArgumentError
from ..loading import find
from ..options.load import LoadOptions
from ..values import choice, flag, text, whole
from .cutting import Cutter
from .errors import JobError
from .estimate import Estimate, Preparation, calibrated
from .grouping import LENGTHS, Entry, Order
from .identity import build, identify
from .inputs import Found, Scan, input_paths, sample
from .manifest import GROUPED, NAME, ORDER, OUTPUTS, TASKS, Input, Manifest, Shard, Task
from .parquet import ParquetInput, library
from .rows import input_names, input_size, is_compressed, is_parquet, lines, opened, parsed, table_rows
from .store import Store, open_store
from .tasks.prompts import Prompts, checked_options
from .tasks.texts import as_json

_LEVELS = ("scalar", "avx2", "avx_vnni", "avx512", "avx512_vnni")
_BITS = ("dtype", "context_length", "kv_dtype", "allow_unknown_keys")  # options of loading that change results

_WITHOUT_TEXTS = {"score": "a score", "embed": "a vector"}

Inputs = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


def plan_manifest(
    inputs: Inputs,
    folder: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] | None,
    task: str,
    prompt: str | None,
    prompt_column: str | None,
    messages_column: str | None,
    system: str | None,
    id_column: str,
    row_options: Sequence[str],
    top: int | None,
    seed: int,
    output: str,
    rows_per_shard: int | None,
    tokens_per_shard: int | None,
    group: bool,
    cpu_level: str | None,
    load_options: LoadOptions | None,
    options: Mapping[str, Any],
) -> Store:
    """Write the manifest of a job; see :func:`pyml_nlp.jobs.plan`. The store of its folder is returned."""
    level = cpu.level() if cpu_level is None else choice("cpu_level", cpu_level, _LEVELS)
    work = Task(
        kind=choice("task", task, TASKS),
        prompt=prompt,
        prompt_column=prompt_column,
        messages_column=messages_column,
        system=None if system is None else text("system", system),
        id_column=text("id_column", id_column),
        row_options=tuple(row_options),
        top=None if top is None else whole("top", top, 0),
    )
    prompts = Prompts(work)
    _check_task(work, options)
    cutter = Cutter(*(None if one is None else whole(name, one, 1) for name, one in (
        ("rows_per_shard", rows_per_shard), ("tokens_per_shard", tokens_per_shard)
    )))  # fmt: skip
    if rows_per_shard is not None and tokens_per_shard is not None:
        raise ArgumentError("cannot be given together with tokens_per_shard", "rows_per_shard")
    group, seed, output = flag("group", group), whole("seed", seed), choice("output", output, OUTPUTS)
    store = open_store(folder)
    if output == "parquet":
        library(store.name("shards"))  # checks that it is installed
    paths = input_paths(inputs)
    if group and any(map(is_compressed, paths)):
        raise JobError(f"{next(filter(is_compressed, paths))}: rows of compressed files cannot be grouped")
    _check_model(work.kind, model, load_options)
    identity = identify(model)
    changes = checked_options({name: value for name, value in options.items() if value is not None})
    prepared = Preparation(identity.name, chats=work.kind == "chat" or messages_column is not None)
    try:
        resolved = prepared.defaults.replace(**changes)
        names = input_names(paths)
        expected = 0 if work.kind in _WITHOUT_TEXTS else resolved.max_tokens
        estimate = calibrated(sample(paths, names, id_column), prompts, prepared, expected)
    finally:
        prepared.close()
    found, shards, order = _shards(paths, names, prompts, estimate, cutter, work, group)
    load = load_options or LoadOptions()
    manifest = Manifest(
        inputs=tuple(found),
        task=work,
        options=as_json(resolved, changes),
        load={name: getattr(load, name) for name in _BITS if getattr(load, name) != getattr(LoadOptions, name)},
        seed=seed,
        model=identity,
        build=build(),
        cpu_level=level,
        output=output,
        shared_tokens=estimate.shared,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        shards=shards,
    )
    if not _is_planned(store, manifest):
        if order is not None:
            store.write(ORDER, order)
        manifest.write(store)
    return store


def _check_task(task: Task, options: Mapping[str, Any]) -> None:
    """Refuse options that the task does not have."""
    given = [name for name, value in options.items() if value is not None]
    if task.kind in _WITHOUT_TEXTS and given:
        raise ArgumentError(f"is an option of texts, which {_WITHOUT_TEXTS[task.kind]} has not", given[0])
    if task.kind == "embed" and (task.messages_column is not None or task.row_options):
        wrong = "messages_column" if task.messages_column is not None else "row_options"
        raise ArgumentError("is of texts that are generated, and the task is embed", wrong)
    if task.kind != "score" and task.top is not None:
        raise ArgumentError("is an option of scores; of texts it is logprobs", "top")
    if task.system is not None and task.kind != "chat" and task.messages_column is None:
        raise ArgumentError("needs the task chat, or a column of messages", "system")


def _check_model(task: str, model: str | os.PathLike[str] | None, load: LoadOptions | None) -> None:
    """Check that the model is of the task's kind, and its options of loading as well.

    Raises:
        ArgumentError: they are not. PymlError: it cannot be found.
    """
    source = find(model)
    if is_embedding_model(source.path) != (task == "embed"):
        needed, given = "an embedding model", "a model that writes texts"
        if task != "embed":
            needed, given = given, needed
        raise ArgumentError(f"{task} needs {needed}, got {given}", "task")
    for name in ("context_length", "kv_dtype", "allow_unknown_keys"):
        if task == "embed" and load is not None and getattr(load, name) != getattr(LoadOptions, name):
            raise ArgumentError("is for models that write texts, and the task is embed", name)


def _is_planned(store: Store, manifest: Manifest) -> bool:
    """Whether the folder has this plan already.

    Raises:
        JobError: it has another one.
    """
    if not store.exists(NAME):
        return False
    before, after = Manifest.read(store)[0], manifest
    old, new = before.settings(), after.settings()
    for key in old:
        if old[key] != new[key]:
            raise JobError(
                f"{store.url}: planned already, with another value of {_difference(key, old[key], new[key])}"
            )
    if before.shards != after.shards:
        raise JobError(
            f"{store.url}: planned already, with other shards: {len(before.shards)}, not {len(after.shards)}"
        )
    return True


def _difference(key: str, old: Any, new: Any) -> str:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        name = next(name for name in {**old, **new} if old.get(name) != new.get(name))
        return _difference(f"{key}.{name}", old.get(name), new.get(name))
    return f"{key}: {quoted(old)}, not {quoted(new)}"


def _shards(
    paths: Sequence[str],
    names: Sequence[str],
    prompts: Prompts,
    estimate: Estimate,
    cutter: Cutter,
    task: Task,
    group: bool,
) -> tuple[list[Input], tuple[Shard, ...], bytes | None]:
    """The inputs, the shards, and the order of the rows if they are grouped."""
    found: list[Input] = []
    order = Order() if group else None
    for number, (path, name) in enumerate(zip(paths, names, strict=True)):
        size = input_size(path)
        scan = Scan(path, prompts.needed or None)
        stop, total = 0, 0.0
        for rows in scan:
            if is_compressed(path):
                stop = int(rows.stops[-1]) if len(rows.stops) else stop
                total += float(estimate.tokens(rows.sizes).sum())
            elif order is None:
                cutter.add(number, rows, estimate.tokens(rows.sizes))
        if is_compressed(path):
            cutter.add_whole(number, stop, scan.rows, total)
        source = Input(path, name, size, scan.rows, scan.digest)
        if order is not None:
            _add_to_order(order, number, source, prompts, estimate, task)
        found.append(source)
    data = None
    if order is not None:
        data, tokens = order.sorted()
        places = np.arange(len(tokens))
        cutter.add(GROUPED, Found(places, places + 1, places + 1, places), tokens.astype(np.float64))
    shards = cutter.shards()
    if not shards:
        raise JobError(f"{paths[0]}: there are no rows in the inputs")
    return found, shards, data


def _add_to_order(order: Order, number: int, source: Input, prompts: Prompts, estimate: Estimate, task: Task) -> None:
    """Add the rows of an input to the order."""

    def add(row: Any, start: int, size: int) -> None:
        try:
            beginning = prompts.text(prompts.item(row))[: LENGTHS[0]]
        except PymlError:  # it will be the row's result
            beginning = ""
        order.add(beginning, Entry(number, round(estimate.fixed + estimate.per_byte * size), row.number, start))

    with opened(source.path) as file:
        if not is_parquet(source.path):
            for line in lines(file, 0, None, 1):
                add(parsed(line, source, task.id_column), line.start, line.stop - line.start)
            return
        for size, row in table_rows(ParquetInput(file, source.path), source, prompts.columns, task.id_column):
            add(row, 0, size)
