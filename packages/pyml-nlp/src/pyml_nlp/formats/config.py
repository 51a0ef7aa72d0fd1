"""Strict reading of a model folder's JSON files: bounded, UTF-8, no repeated keys, no NaN, no code."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

from pyml_core.errors import quoted
from pyml_nn.config.hf_file import repeats_built_ins

from ..errors import ModelFileError
from ..text_files import decoded
from .reading import ModelFile

MAX_CONFIG = 2 << 20
"""Maximum size of config.json and generation_config.json in bytes: some twenty times the largest of a known model."""

MAX_JSON = 16 << 20
"""Maximum size of a tokenizer's small files in bytes; other JSON files have limits of their own."""

MAX_VALUES = 1 << 20
"""Maximum number of values in one of these files: this many take half a second to read."""

_MAX_DIGITS = 40  # of a number without a fraction; the longest legitimate one has 19
_CODE_KEYS = ("auto_map", "trust_remote_code")  # keys that request Python code from the repository
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")  # the escape of a surrogate, which may lack its other half


def parse_json_object(data: bytes, where: str, max_values: int | None = None) -> dict[str, Any]:
    """Parse the JSON object in ``data``, which may begin with a byte order mark.

    Args:
        data: the text.
        where: the beginning of messages: the file's name.
        max_values: maximum number of values, estimated before parsing from the separators, including those in strings;
            None: no limit.

    Raises:
        ModelFileError: ``data`` is not UTF-8, not JSON or not an object, repeats a key, has a number that is not finite
            or too long, or has too many values or levels.
    """

    def fail(message: str) -> NoReturn:
        raise ModelFileError(f"{where}: {message}")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice, times = Counter(key for key, _ in pairs).most_common(1)[0]
            fail(f"expected each key once, got {quoted(twice)} {times} times")
        return found

    def integer(text: str) -> int:
        if len(text) > _MAX_DIGITS:
            fail(f"expected numbers of at most {_MAX_DIGITS} digits, got one of {len(text)}")
        return int(text)

    def number(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            fail(f"expected finite numbers, got {text[:40]}")
        return value

    def constant(text: str) -> NoReturn:
        fail(f"expected finite numbers, got {text}")

    if max_values is not None and (values := sum(map(data.count, (b",", b"[", b"{")))) > max_values:
        fail(f"expected at most {max_values} values, got about {values}")
    try:
        text = decoded(data)
    except ValueError as error:
        fail(str(error))
    try:
        found = json.loads(
            text,
            object_pairs_hook=unique,
            parse_int=integer,
            parse_float=number,
            parse_constant=constant,
        )
        if _SURROGATE.search(data):
            json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        fail("expected whole Unicode characters, got half a surrogate pair")
    except json.JSONDecodeError as error:
        fail(f"expected JSON: {error}")
    except RecursionError:
        fail("expected JSON of a few levels, got too many to read")
    if not isinstance(found, dict):
        fail(f"expected a JSON object, got {type(found).__name__}")
    return found


def read_json(path: Path, limit: int = MAX_JSON, max_values: int | None = None) -> dict[str, Any]:
    """Read a file of at most ``limit`` bytes and ``max_values`` values that consists of one JSON object.

    Raises:
        ModelNotFoundError: the file does not exist.
        ModelFileError: the file is too large or invalid (see :func:`parse_json_object`).
    """
    with ModelFile(path) as file:
        if file.size > limit:
            raise file.error(f"expected at most {limit} bytes, got {file.size}")
        data = file.read_bytes(0, file.size)
    return parse_json_object(data, str(path), max_values)


def read_config(folder: Path) -> dict[str, Any]:
    """Read ``config.json`` of a model folder.

    Raises:
        ModelNotFoundError: the file does not exist.
        ModelFileError: it is malformed, has no ``model_type``, or requests code from the repository.
    """
    config = read_json(folder / "config.json", MAX_CONFIG, MAX_VALUES)
    _refuse_code(config, folder / "config.json")
    kind = config.get("model_type")
    if not isinstance(kind, str) or not kind:
        raise ModelFileError(f"{folder / 'config.json'}: expected a name in 'model_type', got {quoted(repr(kind))}")
    return config


def read_optional(folder: Path, name: str) -> dict[str, Any]:
    """Read an optional file such as ``generation_config.json``; returns an empty dict if it does not exist.

    Raises:
        ModelFileError: it is malformed, or requests code from the repository.
    """
    if not (folder / name).exists():
        return {}
    limit = MAX_CONFIG if name in ("config.json", "generation_config.json") else MAX_JSON
    config = read_json(folder / name, limit, MAX_VALUES)
    _refuse_code(config, folder / name)
    return config


def _refuse_code(config: dict[str, Any], path: Path) -> None:
    for key in _CODE_KEYS:
        if config.get(key) and not (key == "auto_map" and repeats_built_ins(config)):
            raise ModelFileError(f"{path}: asks to run code out of the repository ({key!r}), which pyml never does")
