"""The files of sentence-transformers in a model folder: pooling, normalisation, length of texts, prompts.

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
from .pooling import POOLING

_log = logging.getLogger("pyml.load")

MODULES = "modules.json"

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
    """

    pooling: str = "mean"
    normalize: bool = False
    max_tokens: int | None = None
    lower_case: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None


def read_settings(folder: Path) -> EmbeddingSettings:
    """Read the settings of a folder.

    Raises:
        ModelFileError: a file is malformed, or asks for a step that pyml does not compute.
    """
    pooling, normalize = "mean", False
    if (folder / MODULES).exists():
        pooling, normalize = _steps(folder)
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
    return EmbeddingSettings(pooling, normalize, length, lower, prompts, default)


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


def _steps(folder: Path) -> tuple[str, bool]:
    """The pooling in ``modules.json``, and whether vectors are normalised after it."""
    path = folder / MODULES
    data = read_bytes(path, _LIMIT)
    modules = parse_json_object(b'{"modules":' + data + b"}", str(path))["modules"]
    entries = modules if isinstance(modules, list) else [modules]
    kinds = [str(entry.get("type", "")).rpartition(".")[2] if isinstance(entry, dict) else "" for entry in entries]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise ModelFileError(
            f"{path}: expected the modules Transformer, Pooling and perhaps Normalize, got {quoted(', '.join(kinds))}"
        )
    if entries[0].get("path"):
        raise ModelFileError(f"{path}: expected the Transformer in this folder, got {quoted(entries[0]['path'])}")
    name = entries[1].get("path")
    if not isinstance(name, str) or Path(name).name != name:
        raise ModelFileError(f"{path}: Pooling: expected the name of a folder, got {quoted(name)}")
    return _pooling(folder / name / "config.json"), len(kinds) == 3


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
