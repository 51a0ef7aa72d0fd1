"""Ministral 3 and Devstral Small 2: Llama with YaRN, and queries that are scaled in long texts. GGUF: ``mistral3``.

The query at position p has the factor ``1 + beta ln(1 + floor(p / L))``, which is 1 before L, the length of the
pretraining. pyml limits a context to L.

Source: Mistral AI 2025, Ministral 3; transformers' ``modeling_ministral3.py``; Meta 2025, Llama 4 (the factor).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from ..config import MAX_CONTEXT, MAX_FACTOR, Fields, Known, gguf, hf
from . import llama

_log = logging.getLogger("pyml.load")

Model = llama.Model


def _limited(fields: Fields, key: str, length: int, beta: float, original: int) -> int:
    """Return the length of a context, limited to the positions whose queries have the factor 1."""
    if not beta or original >= length:
        return length
    _log.warning(
        "%s: %s: queries are scaled from position %d on, which is not supported: a context ends there",
        fields.where, fields.named(key), original,
    )  # fmt: skip
    return original


def _hf_context(fields: Fields, known: Known) -> int:
    length = hf.context(fields, known)
    for key in ("rope_parameters", "rope_scaling"):
        section = fields.section(key)
        if section is not None:
            beta = section.number("llama_4_scaling_beta", 0, MAX_FACTOR, default=0)
            original = section.integer("original_max_position_embeddings", 1, MAX_CONTEXT, default=length)
            return _limited(section, "llama_4_scaling_beta", length, beta, original)
    raise fields.error("rope_parameters", "missing, expected an object of keys and values")


def _gguf_context(fields: Fields, known: Known) -> int:
    length = fields.integer("context_length", 1, MAX_CONTEXT)
    original = fields.integer("rope.scaling.original_context_length", 1, MAX_CONTEXT, default=length)
    original = fields.integer("attention.temperature_length", 1, MAX_CONTEXT, default=original)
    beta = fields.number("attention.temperature_scale", 0, MAX_FACTOR, default=0)
    return _limited(fields, "attention.temperature_scale", length, beta, original)


@dataclass(frozen=True, kw_only=True)
class Config(llama.Config):
    """Configuration of a Ministral 3 model."""

    HF = hf.Table(
        ("ministral3",),
        {
            **hf.SIZES,
            "context_length": _hf_context,
            "norm_eps": hf.eps(1e-5),
            "rope": hf.rope(1_000_000.0, more=("llama_4_scaling_beta", "max_position_embeddings")),
            "activation": hf.ACTIVATION,
            "window": hf.window(),
        },
    )
    GGUF = gguf.Table(
        "mistral3",
        {**llama.Config.GGUF.rows, "context_length": _gguf_context, "rope": gguf.rope(log_multiplier=True)},
    )
