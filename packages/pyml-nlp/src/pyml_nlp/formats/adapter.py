"""Adapters (LoRA) in their files: PEFT folders, and GGUF files of llama.cpp's converter.

A PEFT folder has ``adapter_config.json`` and ``adapter_model.safetensors``, with ``base_model.model.<module>.lora_A``
and ``.lora_B``. A GGUF adapter has ``<tensor of the model>.lora_a`` and ``.lora_b``, whose rows are in the order of the
model's GGUF file.

Letters: R = rank, K and N = inputs and outputs of a matrix.

Source: PEFT's ``LoraConfig`` and ``get_pattern_key``; ``llama_adapter_lora_init`` of llama.cpp.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyml_core.errors import quoted
from pyml_core.tensor import Tensor
from pyml_nn.adapters import Adapter, AdapterModule

from ..errors import ModelFileError, ModelNotFoundError
from ..options.adapters import AdapterFile
from .config import MAX_CONFIG, MAX_VALUES, read_json
from .folders import ADAPTER
from .gguf import GGUFFile
from .safetensors import SafetensorsFile

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."

_REFUSED = {
    "use_dora": "DoRA (use_dora)",
    "modules_to_save": "whole layers (modules_to_save)",
    "lora_bias": "biases (lora_bias)",
    "trainable_token_indices": "embeddings of tokens (trainable_token_indices)",
    "target_parameters": "changes of experts or other parameters (target_parameters)",
    "layer_replication": "layers that are used twice (layer_replication)",
    "alora_invocation_tokens": "activated LoRA (alora_invocation_tokens)",
    "use_qalora": "QA-LoRA (use_qalora)",
    "use_bdlora": "block-diagonal LoRA (use_bdlora)",
    "arrow_config": "routed adapters (arrow_config)",
}
"""Keys of a PEFT configuration that ask for more than low-rank terms of linear layers."""

_CHANGED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Beginnings of values of ``init_lora_weights`` with which training began from another base model than the original."""

_PLAIN = re.compile(r"[\w.]{1,300}")
_PEFT_NAME = re.compile(r"(.+)\.lora_([AB])\.weight", re.DOTALL)
_GGUF_NAME = re.compile(r"(.+)\.lora_([ab])", re.DOTALL)


def read_adapter(file: AdapterFile) -> Adapter:
    """Read an adapter.

    Raises:
        ModelNotFoundError: there is no such file or folder, or it is not an adapter.
        ModelFileError: it is malformed, or asks for more than low-rank terms of linear layers.
    """
    path = Path(file.path)
    if path.is_dir():
        return _read_peft(path, file)
    if not path.exists():
        raise ModelNotFoundError(f"{path}: there is no such adapter, expected a PEFT folder or a GGUF file")
    if path.suffix == ".safetensors":
        raise ModelFileError(f"{path}: expected the folder of a PEFT adapter, which has its {ADAPTER} too, got a file")
    return _read_gguf(path, file)


# ---- PEFT


def _read_peft(folder: Path, file: AdapterFile) -> Adapter:
    if not (folder / ADAPTER).exists():
        raise ModelNotFoundError(f"{folder}: expected a PEFT adapter with {ADAPTER}, found none")
    if not (folder / WEIGHTS).exists():
        raise ModelNotFoundError(f"{folder}: expected {WEIGHTS}, found none; adapter_model.bin is not read")
    config, where = read_json(folder / ADAPTER, MAX_CONFIG, MAX_VALUES), folder / ADAPTER
    _check_config(config, where)
    with SafetensorsFile(folder / WEIGHTS) as weights:
        halves = _halves(weights, list(weights.tensors), _PEFT_NAME, PREFIX)
        modules = {
            f"{name}.weight": AdapterModule(a, b, file.scale * _peft_scale(config, where, name, a))
            for name, (a, b) in halves.items()
        }
    return Adapter(file.name, modules, gguf=False, source=str(folder))


def _check_config(config: Mapping[str, Any], where: Path) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise ModelFileError(f"{where}: expected an adapter of peft_type LORA, got {quoted(str(kind))}")
    for key, what in _REFUSED.items():
        if config.get(key):
            raise ModelFileError(f"{where}: expected low-rank changes of linear layers, got {what}: not supported")
    if config.get("bias", "none") != "none":
        raise ModelFileError(f"{where}: expected bias 'none', got {quoted(str(config['bias']))}: not supported")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGED_BASE):
        raise ModelFileError(
            f"{where}: init_lora_weights {quoted(start)}: training began from a changed base model; "
            "convert the adapter with PEFT (path_initial_model_for_weight_conversion) first"
        )


def _peft_scale(config: Mapping[str, Any], where: Path, name: str, a: Tensor) -> float:
    """``alpha / R``, or ``alpha / sqrt(R)`` with ``use_rslora``; patterns have values of their own for some modules."""
    rank = _of_pattern(config, where, "rank_pattern", name, "r")
    alpha = _of_pattern(config, where, "alpha_pattern", name, "lora_alpha")
    if rank != int(rank) or a.shape[:1] != (int(rank),):
        raise ModelFileError(f"{where}: expected rank {rank:g} for {quoted(name)}, found A of shape {a.shape}")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") is True else rank)


def _of_pattern(config: Mapping[str, Any], where: Path, pattern: str, name: str, default: str) -> float:
    """The value of the first name in a pattern that is the module's, or the end of it after a dot; else the default."""
    values = config.get(pattern) or {}
    if not isinstance(values, Mapping):
        raise ModelFileError(f"{where}: {pattern}: expected an object, got {quoted(repr(values))}")
    key, found = default, config.get(default)
    for part, value in values.items():
        if not _PLAIN.fullmatch(part):
            raise ModelFileError(f"{where}: {pattern}: expected names of modules, got {quoted(part)}: not supported")
        if f".{name}".endswith(f".{part}"):
            key, found = pattern, value
            break
    low = 1 if default == "r" else -math.inf
    if isinstance(found, bool) or not isinstance(found, int | float) or not low <= found < 1e9:
        raise ModelFileError(f"{where}: {key}: expected a number from 1 for a rank, got {quoted(repr(found))}")
    return float(found)


# ---- GGUF


def _read_gguf(path: Path, file: AdapterFile) -> Adapter:
    with GGUFFile(path) as weights:
        metadata = weights.metadata
        for key, expected in (("general.type", "adapter"), ("adapter.type", "lora")):
            if metadata.get(key) != expected:
                found = quoted(str(metadata.get(key, "none")))
                raise weights.error(f"metadata {key!r}: expected {expected!r}, as in a LoRA adapter, got {found}")
        if "adapter.alora.invocation_tokens" in metadata:
            raise weights.error("expected an adapter of all tokens, got activated LoRA (adapter.alora): not supported")
        alpha = weights.require("adapter.lora.alpha", float)
        if not math.isfinite(alpha):
            raise weights.error(f"metadata 'adapter.lora.alpha': expected a finite number, got {alpha}")
        modules = {}
        for name, (a, b) in _halves(weights, list(weights.tensors), _GGUF_NAME, "").items():
            rank = max(1, a.shape[0]) if a.shape else 1
            modules[name] = AdapterModule(a, b, file.scale * (alpha / rank if alpha else 1.0))
    return Adapter(file.name, modules, gguf=True, source=str(path))


# ---- both


def _halves(
    weights: SafetensorsFile | GGUFFile, names: list[str], form: re.Pattern[str], prefix: str
) -> dict[str, tuple[Tensor, Tensor]]:
    """Name of each module -> its A and B."""
    found: dict[str, dict[str, Tensor]] = {}
    for name in names:
        match = form.fullmatch(name)
        if match is None or not name.startswith(prefix):
            raise weights.error(f"tensor {quoted(name)}: expected A or B of a linear layer{_kind(name)}")
        found.setdefault(match[1].removeprefix(prefix), {})[match[2].lower()] = weights.read(name)
    if not found:
        raise weights.error("expected tensors of an adapter, found none")
    for name, both in found.items():
        if len(both) < 2:
            missing = "B" if "a" in both else "A"
            raise weights.error(f"expected A and B of {quoted(name)}, {missing} is missing")
    return {name: (both["a"], both["b"]) for name, both in found.items()}


def _kind(name: str) -> str:
    """The known kind of a tensor that is not supported, as an addition to a message."""
    for part, kind in (("lora_magnitude_vector", "DoRA"), ("lora_embedding", "an embedding"), ("lora_bias", "a bias")):
        if part in name:
            return f", got that of {kind}: not supported"
    return ", got another one: not supported"
