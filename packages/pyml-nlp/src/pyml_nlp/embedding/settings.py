"""The files of sentence-transformers in a model folder: pooling, Dense, normalisation, length of texts, prompts.

``modules.json`` names the steps, and ``1_Pooling/config.json`` describes the pooling. A folder without ``modules.json``
has mean pooling and no normalisation, as in sentence-transformers.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyml_core.errors import quoted

from ..errors import ModelFileError
from ..formats.config import parse_json_object, read_json, read_optional
from ..tokenizer.bounded import read_bytes
from .dense import Dense, read_dense
from .pooling import POOLING

_log = logging.getLogger("pyml.load")

MODULES = "modules.json"

_MAX_DENSE = 8
_LIMIT = 1 << 16  # bytes of modules.json
_MODULE_FILES = (".json", ".safetensors")
_FLAG = "pooling_mode_"
_MODES = {
    "cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max", "mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "lasttoken": "lasttoken",
}  # fmt: skip


@dataclass(frozen=True)
class EmbeddingSettings:
    """How texts become vectors.

    Attributes:
        pooling: a key of :data:`.pooling.POOLING`.
        normalize: whether vectors have a length of 1.
        max_tokens: maximum number of tokens of a text, special ones included; None: the model's positions.
        lower_case: whether texts are made lower case before they are tokenized.
        prompts: texts that are put before others, by name.
        default_prompt: the name of the prompt that is used if none is given; None: no prompt.
        dense: modules between the pooling and the normalisation.
    """

    pooling: str = "mean"
    normalize: bool = False
    max_tokens: int | None = None
    lower_case: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    dense: tuple[Dense, ...] = ()


def read_settings(folder: Path) -> EmbeddingSettings:
    """Read the settings of a folder.

    Raises:
        ModelFileError: a file is malformed, or asks for a step that pyml does not compute.
    """
    pooling, normalize, dense = "mean", False, tuple[Dense, ...]()
    if (folder / MODULES).exists():
        pooling, dense, normalize = _steps(folder)
    else:
        _log.warning("%s: there is no %s: mean pooling, not normalised", folder, MODULES)
    texts = read_optional(folder, "sentence_bert_config.json")
    path = folder / "sentence_bert_config.json"
    length = texts.get("max_seq_length")
    if length is not None and (type(length) is not int or length < 1):
        raise ModelFileError(f"{path}: max_seq_length: expected a whole number of at least 1, got {quoted(length)}")
    lower = texts.get("do_lower_case", False)
    if not isinstance(lower, bool):
        raise ModelFileError(f"{path}: do_lower_case: expected true or false, got {quoted(lower)}")
    prompts, default = _prompts(folder)
    return EmbeddingSettings(pooling, normalize, length, lower, prompts, default, dense)


def module_files(folder: Path) -> list[str]:
    """Names of the files of modules in folders of their own, below ``folder``; none without ``modules.json``.

    Raises:
        ModelFileError: a folder cannot be read.
    """
    if not (folder / MODULES).exists():
        return []
    names = []
    try:
        for one in sorted(folder.iterdir()):
            if re.fullmatch(r"\d+_\w+", one.name) and one.is_dir():
                names += [f"{one.name}/{file.name}" for file in sorted(one.iterdir()) if file.suffix in _MODULE_FILES]
    except OSError as error:
        raise ModelFileError(f"{folder}: cannot be read: {error.strerror}") from None
    return names


def _steps(folder: Path) -> tuple[str, tuple[Dense, ...], bool]:
    """The pooling in ``modules.json``, the modules after it, and whether vectors are normalised after them."""
    path = folder / MODULES
    data = read_bytes(path, _LIMIT)
    modules = parse_json_object(b'{"modules":' + data + b"}", str(path))["modules"]
    entries = modules if isinstance(modules, list) else [modules]
    kinds = [str(entry.get("type", "")).rpartition(".")[2] if isinstance(entry, dict) else "" for entry in entries]
    normalize = kinds[-1:] == ["Normalize"]
    between = kinds[2:-1] if normalize else kinds[2:]
    if kinds[:2] != ["Transformer", "Pooling"] or between != ["Dense"] * len(between):
        raise ModelFileError(
            f"{path}: expected the modules Transformer, Pooling and perhaps Dense and Normalize, "
            f"got {quoted(', '.join(kinds))}"
        )
    if len(between) > _MAX_DENSE:
        raise ModelFileError(f"{path}: expected at most {_MAX_DENSE} modules Dense, got {len(between)}")
    if entries[0].get("path"):
        raise ModelFileError(f"{path}: expected the Transformer in this folder, got {quoted(entries[0]['path'])}")
    names = [entry.get("path") for entry in entries[1 : 2 + len(between)]]
    for kind, name in zip(kinds[1:], names, strict=False):
        if not isinstance(name, str) or Path(name).name != name or not name:
            raise ModelFileError(f"{path}: {kind}: expected the name of a folder, got {quoted(name)}")
    pooling = _pooling(folder / str(names[0]) / "config.json")
    return pooling, tuple(read_dense(folder / str(name)) for name in names[1:]), normalize


def _pooling(path: Path) -> str:
    config = read_json(path, _LIMIT)
    if config.get("include_prompt", True) is not True:
        raise ModelFileError(f"{path}: include_prompt: expected true, got {quoted(config['include_prompt'])}")
    mode = config.get("pooling_mode")
    if mode is None:
        chosen = [key.removeprefix(_FLAG) for key, value in config.items() if key.startswith(_FLAG) and value]
        mode = _MODES.get(chosen[0], chosen[0]) if len(chosen) == 1 else chosen
    if not isinstance(mode, str) or mode not in POOLING:
        raise ModelFileError(f"{path}: pooling: expected one of {', '.join(POOLING)}, got {quoted(mode)}")
    return mode


def _prompts(folder: Path) -> tuple[dict[str, str], str | None]:
    path = folder / "config_sentence_transformers.json"
    config: dict[str, Any] = read_optional(folder, path.name)
    prompts = config.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        raise ModelFileError(f"{path}: prompts: expected an object of texts, got {quoted(prompts)}")
    default = config.get("default_prompt_name")
    if default is not None and default not in prompts:
        raise ModelFileError(f"{path}: default_prompt_name: expected a name in prompts, got {quoted(default)}")
    return prompts, default
