"""The manifest of a job: everything that decides its results, and its shards. One JSON file, written once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from hashlib import sha256
from typing import Any

from pyml_core.errors import quoted

from .errors import ManifestError
from .identity import ModelFile, ModelIdentity
from .store import Store

NAME = "manifest.json"
FORMAT, VERSION = "pyml job", 1
ORDER = "order.bin"
"""The rows of the shards, if they are grouped; see :mod:`.grouping`."""

GROUPED = -1
"""In place of the number of an input: a piece is a part of :data:`ORDER`."""

TASKS = ("generate", "chat", "score", "embed")
OUTPUTS = ("jsonl", "parquet")


@dataclass(frozen=True)
class Input:
    """A file with rows.

    Attributes:
        path: absolute path, or URL.
        name: how ids of rows without one begin: the file's name, or the path if several files have that name.
        size: in bytes.
        rows: number of rows.
        digest: SHA-256 of the file; empty for Parquet files, whose bytes are not all read.
    """

    path: str
    name: str
    size: int
    rows: int
    digest: str


@dataclass(frozen=True)
class Piece:
    """Successive rows of an input.

    Attributes:
        input: its number; :data:`GROUPED`: the piece is a part of the order of the rows.
        start, stop: offsets in a JSONL file (0 and the size of a compressed one), numbers of rows of a Parquet file
            from 0, or numbers of entries of the order.
        row: number of the line at ``start`` (JSONL), or of the first row, from 1.
    """

    input: int
    start: int
    stop: int
    row: int


@dataclass(frozen=True)
class Shard:
    """Rows that one process works on.

    Attributes:
        pieces: where they are.
        rows: their number.
        tokens: estimated number of tokens of prompts and texts.
    """

    pieces: tuple[Piece, ...]
    rows: int
    tokens: int


@dataclass(frozen=True)
class Task:
    """What is made of a row.

    Attributes:
        kind: one of :data:`TASKS`.
        prompt: a template over columns; None: the row has a prompt or messages.
        prompt_column, messages_column: the columns with prompts or messages; None: ``prompt`` and ``messages``.
        system: a system message, for chats.
        id_column: the column with names of rows.
        row_options: columns that are options, where columns are data.
        top: of scores: number of most probable tokens to report; None: the sum alone.
    """

    kind: str = "generate"
    prompt: str | None = None
    prompt_column: str | None = None
    messages_column: str | None = None
    system: str | None = None
    id_column: str = "id"
    row_options: tuple[str, ...] = ()
    top: int | None = None

    @property
    def columns_are_data(self) -> bool:
        """Whether the columns of a row are data, rather than the keys of a line of a batch file."""
        return any(one is not None for one in (self.prompt, self.prompt_column, self.messages_column))


@dataclass(frozen=True)
class Manifest:
    """Everything that decides a job's results, and its shards.

    Attributes:
        inputs: files with rows.
        task: what is made of a row.
        options: options of generation that differ from the model's defaults, as a batch file's line has them.
        load: options of loading that differ from the defaults and change bits.
        seed: rows without a seed get a hash of it and their id.
        model, build, cpu_level: see :mod:`.identity`.
        output: one of :data:`OUTPUTS`.
        shared_tokens: estimated length of the common beginning of prompts.
        created: when it was planned.
        shards: in the order of the rows.
    """

    inputs: tuple[Input, ...]
    task: Task
    options: Mapping[str, Any]
    load: Mapping[str, Any]
    seed: int
    model: ModelIdentity
    build: str
    cpu_level: str
    output: str
    shared_tokens: int
    created: str
    shards: tuple[Shard, ...] = field(repr=False)

    @property
    def rows(self) -> int:
        """Number of rows of all shards."""
        return sum(shard.rows for shard in self.shards)

    @property
    def tokens(self) -> int:
        """Estimated number of tokens of all shards."""
        return sum(shard.tokens for shard in self.shards)

    @property
    def grouped(self) -> bool:
        """Whether rows with the same beginning are together."""
        return bool(self.shards) and self.shards[0].pieces[0].input == GROUPED

    def settings(self) -> dict[str, Any]:
        """Everything but the shards and the time of the plan: equal for jobs with equal results."""
        found = asdict(self)
        found["model"]["name"] = ""
        return {key: value for key, value in found.items() if key not in ("shards", "created", "shared_tokens")}

    def write(self, store: Store) -> None:
        """Write the manifest. Raises JobError if that fails."""
        values = {key: value for key, value in asdict(self).items() if key != "shards"}
        shards = ",\n".join(
            json.dumps([[[p.input, p.start, p.stop, p.row] for p in shard.pieces], shard.rows, shard.tokens])
            for shard in self.shards
        )
        head = json.dumps({"format": FORMAT, "version": VERSION, **values}, indent=1, ensure_ascii=False)
        store.write(NAME, f'{head[:-2]},\n "shards": [\n{shards}\n]\n}}\n'.encode())

    @classmethod
    def read(cls, store: Store) -> tuple[Manifest, str]:
        """The manifest of a folder, and the SHA-256 of its file.

        Raises:
            ManifestError: there is none, or it is damaged or of another version.
        """
        name = store.name(NAME)
        try:
            data = store.read(NAME)
        except FileNotFoundError:
            raise ManifestError(
                f"{store.url}: there is no job: expected {NAME}, which `pyml batch plan` makes"
            ) from None
        try:
            found = json.loads(data)
        except (ValueError, RecursionError):
            raise ManifestError(f"{name}: damaged: expected JSON") from None
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise ManifestError(f"{name}: expected the manifest of a job")
        if found.get("version") != VERSION:
            raise ManifestError(f"{name}: expected version {VERSION}, got {quoted(found.get('version'))}")
        del found["format"], found["version"]
        try:
            return _parsed(found), sha256(data).hexdigest()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ManifestError(f"{name}: damaged: {quoted(str(error))}") from None


def _parsed(found: dict[str, Any]) -> Manifest:
    """A manifest of JSON values. Raises KeyError, TypeError or ValueError for anything unexpected."""
    inputs = tuple(_strict(Input, one) for one in found.pop("inputs"))
    task = found.pop("task")
    task["row_options"] = tuple(task["row_options"])
    model = found.pop("model")
    identity = ModelIdentity(_text(model["name"]), tuple(_strict(ModelFile, one) for one in model["files"]))
    shards = tuple(
        Shard(tuple(Piece(*map(_number, piece)) for piece in pieces), _number(rows), _number(tokens))
        for pieces, rows, tokens in found.pop("shards")
    )
    if not shards:
        raise ValueError("no shards")
    if any(not GROUPED <= piece.input < len(inputs) for shard in shards for piece in shard.pieces):
        raise ValueError("a shard of an input that is not listed")
    for key, kind in {"options": dict, "load": dict, "seed": int, "build": str, "cpu_level": str}.items():
        if not isinstance(found[key], kind):
            raise TypeError(f"{key}: {found[key]!r}")
    if found["output"] not in OUTPUTS or task["kind"] not in TASKS:
        raise ValueError(f"unknown task or output: {task['kind']!r}, {found['output']!r}")
    return Manifest(inputs=inputs, task=_strict(Task, task), model=identity, shards=shards, **found)


def _strict(kind: Any, values: dict[str, Any]) -> Any:
    """A dataclass of JSON values of exactly its fields."""
    expected = {one.name: str(one.type) for one in fields(kind)}
    if set(values) != set(expected):
        raise ValueError(f"{kind.__name__}: keys {sorted(values)}")
    for key, value in values.items():
        if not _is(value, expected[key]):
            raise TypeError(f"{kind.__name__}.{key}: {value!r}")
    return kind(**values)


def _is(value: Any, kind: str) -> bool:
    """Whether a value is of a field's type, as it is written in the class."""
    if kind == "tuple[str, ...]":
        return isinstance(value, tuple) and all(isinstance(one, str) for one in value)
    return type(value).__name__ in kind.replace("None", "NoneType").split(" | ")


def _number(value: Any) -> int:
    if type(value) is not int or value < GROUPED:
        raise TypeError(f"expected a number, got {value!r}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a text, got {value!r}")
    return value
