"""Architectures: one file each, found by Hugging Face's ``model_type`` and by GGUF's ``general.architecture``."""

from __future__ import annotations

import numbers
from collections.abc import Iterator, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

from ..config.gguf import check_general_type
from ..errors import ConfigError, show
from . import vision


class _Modules(Mapping[str, ModuleType]):
    """Modules of this package by name; each is imported on first use, because a process needs only one."""

    def __init__(self, **modules: str) -> None:
        self._modules = modules

    def __getitem__(self, name: str) -> ModuleType:
        return import_module(f".{self._modules[name]}", __name__)

    def __contains__(self, name: object) -> bool:
        return name in self._modules

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)


ARCHITECTURES = _Modules(
    gpt2="gpt2",
    gemma2="gemma2",
    gemma3="gemma3",
    gemma3_text="gemma3",
    llama="llama",
    mistral="mistral",
    ministral3="ministral3",
    mixtral="mixtral",
    cohere="cohere",
    cohere2="cohere2",
    ernie4_5="ernie4_5",
    exaone4="exaone4",
    falcon="falcon",
    glm="glm",
    glm4="glm4",
    gpt_neox="gpt_neox",
    granite="granite",
    helium="helium",
    olmo2="olmo2",
    olmo3="olmo2",
    olmoe="olmoe",
    phi="phi",
    phi3="phi3",
    qwen2="qwen2",
    qwen3="qwen3",
    qwen3_moe="qwen3_moe",
    smollm3="smollm3",
    stablelm="stablelm",
    starcoder2="starcoder2",
)
"""``model_type`` -> module; each module has ``Config`` (``from_hf``, ``from_gguf``) and ``Model``."""

ENCODERS = _Modules(bert="bert", roberta="roberta", **{"xlm-roberta": "roberta"})
"""``model_type`` -> module of an encoder; each module has ``Config`` (``from_hf``) and ``Model``."""

GGUF_ARCHITECTURES = _Modules(
    gpt2="gpt2",
    gemma2="gemma2",
    gemma3="gemma3",
    llama="llama",  # and Mistral; with experts, Mixtral
    ernie4_5="ernie4_5",
    chatglm="glm",
    cohere2="cohere2",
    **{"command-r": "cohere"},
    exaone4="exaone4",
    falcon="falcon",
    glm4="glm4",
    gptneox="gpt_neox",
    granite="granite",
    mistral3="ministral3",
    olmo2="olmo2",
    olmoe="olmoe",
    phi2="phi",
    phi3="phi3",
    qwen2="qwen2",
    qwen2vl="qwen2",
    qwen3="qwen3",
    qwen3moe="qwen3_moe",
    qwen3vl="qwen3",
    qwen3vlmoe="qwen3_moe",
    smollm3="smollm3",
    stablelm="stablelm",
    starcoder2="starcoder2",
)
"""``general.architecture`` of a GGUF file -> module."""


def architecture_of(description: Mapping[str, Any], where: str) -> ModuleType:
    """Find the module for a ``config.json`` (by ``model_type``) or for GGUF metadata (by ``general.architecture``).

    Args:
        description: the parsed ``config.json`` or the metadata.
        where: its name in messages.

    Raises:
        ConfigError: the architecture is unknown, or the file is not a model, but an adapter for instance.
    """
    gguf = any(key.startswith("general.") for key in description)
    if gguf:
        check_general_type(description, where)
    key, known = ("general.architecture", GGUF_ARCHITECTURES) if gguf else ("model_type", ARCHITECTURES)
    name = description.get(key)
    if not gguf and isinstance(name, str) and name in vision.WRAPPERS:
        return vision.text_part(description, where)
    if not gguf and isinstance(name, str) and name in ENCODERS:
        raise ConfigError(
            f"{where}: model_type: expected a model that writes texts, found {show(name)}, an encoder: "
            "pyml_nlp.load_embedder loads it"
        )
    if not isinstance(name, str) or name not in known:
        names = ", ".join([*known, *([] if gguf else vision.WRAPPERS)])
        raise ConfigError(f"{where}: {key}: expected one of {names}, found {show(name)}")
    experts = description.get("llama.expert_count") if gguf and name == "llama" else 0
    return ARCHITECTURES["mixtral"] if isinstance(experts, numbers.Integral) and int(experts) > 0 else known[name]
