"""Results: a line of JSON a row, and what is known of a finished shard."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

from pyml_core.errors import quoted

from .errors import JobError
from .parquet import read_table
from .store import Store, named

QUARANTINED = "quarantined: "
"""How the error of a quarantined row begins."""

_DIGEST = re.compile("[0-9a-f]{64}")
_FILE = re.compile(r"shards/[0-9a-f.]+\.(jsonl|parquet)")
_MOST = 1 << 63  # of any number


@dataclass(frozen=True)
class ShardResult:
    """A finished shard.

    Attributes:
        shard: its index.
        rows: number of rows, those with errors included.
        errors: rows that have an error in place of a text.
        quarantined: those of them whose process died again and again.
        prompt_tokens, tokens: of all prompts, and of all texts.
        seconds: of all attempts that are known.
        digest: sum of the hashes of its lines; see :mod:`.digests`.
        bytes: size of the file.
        file: its name in the job's folder.
    """

    shard: int
    rows: int
    errors: int
    quarantined: int
    prompt_tokens: int
    tokens: int
    seconds: float
    digest: str
    bytes: int
    file: str

    def as_json(self) -> str:
        """A line of JSON."""
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def from_json(cls, text: str, name: str) -> ShardResult:
        """Read what :meth:`as_json` wrote; ``name`` is the file's, for messages.

        Raises:
            JobError: it is something else.
        """
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            found = None
        kinds = {field.name: {"int": int, "str": str, "float": (int, float)}[str(field.type)] for field in fields(cls)}
        if (
            not isinstance(found, dict)
            or any(
                not isinstance(found.get(key), kind) or isinstance(found[key], bool)  # type: ignore[arg-type]
                for key, kind in kinds.items()
            )
            or not all(0 <= found[key] < _MOST for key, kind in kinds.items() if kind is not str)
            or not _DIGEST.fullmatch(found["digest"])
            or not _FILE.fullmatch(found["file"])
        ):
            text = quoted(text)
            raise JobError(
                f"{name}: expected the figures of a finished shard, got {text}; `run` makes it again if removed"
            )
        return cls(**{key: found[key] for key in kinds})


@dataclass(frozen=True)
class Progress:
    """How far a shard is; rows of earlier attempts count.

    Attributes:
        shard: its index.
        rows: rows that have ended.
        errors: those of them with an error.
        prompt_tokens, tokens: of these rows.
    """

    shard: int
    rows: int
    errors: int
    prompt_tokens: int
    tokens: int


def encode(result: dict[str, Any]) -> bytes:
    """A result as a line of JSON, without its newline. Equal results give equal bytes."""
    return json.dumps(result, ensure_ascii=False, separators=(", ", ": ")).encode("utf-8", "replace")


def result_lines(store: Store, result: ShardResult) -> Iterator[bytes]:
    """The lines of a finished shard without their newlines, whatever its format.

    Raises:
        JobError: the file is missing, or cannot be read.
    """
    name = store.name(result.file)
    try:
        with store.open(result.file) as file, named(name, "read"):
            if result.file.endswith(".parquet"):
                yield from map(encode, read_table(file, name))
                return
            for line in file:
                yield line.removesuffix(b"\n")
    except FileNotFoundError:
        raise JobError(
            f"{name}: there is no such file, but its shard is marked as done; remove its .done and run again"
        ) from None


def read_results(store: Store, result: ShardResult) -> Iterator[dict[str, Any]]:
    """The rows of a finished shard.

    Raises:
        JobError: the file is missing, cannot be read, or has a line that is not JSON.
    """
    for number, line in enumerate(result_lines(store, result), 1):
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise JobError(f"{store.name(result.file)} line {number}: expected a JSON object, got {quoted(line)}")
        yield found
