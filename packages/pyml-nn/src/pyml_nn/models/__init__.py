"""Architectures: one file each, found by Hugging Face's ``model_type`` and by GGUF's ``general.architecture``."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from pyml_nn.config import ConfigError, show

from . import gemma3, gpt2, llama

ARCHITECTURES: dict[str, ModuleType] = {
    "gpt2": gpt2,
    "gemma3": gemma3,
    "gemma3_text": gemma3,
    "llama": llama,
    "mistral": llama,
}
"""The module of every known name; each has ``Config`` (``from_hf``, ``from_gguf``) and ``Model``."""


def architecture_of(description: Mapping[str, Any], where: str) -> ModuleType:
    """The module for a ``config.json`` (its ``model_type``) or for GGUF metadata (its ``general.architecture``).

    Args:
        description: the parsed ``config.json`` or the metadata.
        where: what messages call it.

    Raises:
        ConfigError: there is none.
    """
    key = "general.architecture" if "general.architecture" in description else "model_type"
    name = description.get(key)
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise ConfigError(f"{where}: {key}: expected one of {', '.join(ARCHITECTURES)}, found {show(name)}")
    return ARCHITECTURES[name]
