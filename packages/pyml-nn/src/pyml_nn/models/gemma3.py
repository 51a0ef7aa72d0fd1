"""Gemma 3: four RMSNorms a block, QK-norm, sliding-window layers with a RoPE base of their own between global ones.

Source: Gemma Team 2025, arXiv 2503.19786; transformers' ``modeling_gemma3.py`` (the text part).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np

from .. import decoder, parts
from ..config import (
    MAX_CONTEXT,
    MAX_HEADS,
    MAX_LAYERS,
    MAX_THETA,
    MAX_VOCAB,
    MAX_WIDTH,
    Fields,
    Key,
    Known,
    gguf,
    hf,
)
from ..errors import ConfigError
from ..layers import ACTIVATIONS, RMSNorm, Rope, SandwichBlock
from ..weights import Spec, Weights
from . import vision

GLOBAL_THETA = 1_000_000.0
LOCAL_THETA = 10_000.0  # GGUF files do not say
PATTERN = 6  # every sixth layer is global; GGUF files do not say

# ---- config.json


def _hf_ropes(fields: Fields, known: Known) -> tuple[Rope, Rope]:
    """The rotations of global and of local layers: ``rope_parameters`` by layer type, or the keys of older files."""
    head_dim, context_length = known["head_dim"], known["context_length"]
    theta = fields.number("rope_theta", 1, MAX_THETA, default=GLOBAL_THETA)
    local_theta = fields.number("rope_local_base_freq", 1, MAX_THETA, default=LOCAL_THETA)
    rope, local_rope = Rope(head_dim, theta), Rope(head_dim, local_theta)
    by_type, scaling = fields.section("rope_parameters"), fields.section("rope_scaling")
    if by_type is not None:
        if (section := by_type.section("full_attention")) is not None:
            rope = hf.rope_section(section, head_dim, context_length, theta)
        if (section := by_type.section("sliding_attention")) is not None:
            local_rope = hf.rope_section(section, head_dim, context_length, local_theta)
        by_type.close()
    if scaling is not None:
        scaled = hf.rope_section(scaling, head_dim, context_length, rope.theta)
        if by_type is not None and scaled != rope:
            raise fields.error("rope_scaling", "differs from rope_parameters")
        rope = scaled
    return rope, local_rope


def _hf_sliding(fields: Fields, known: Known) -> tuple[bool, ...]:
    """Read ``layer_types``, or ``sliding_window_pattern`` in older files."""
    period = fields.integer("_sliding_window_pattern", 1, MAX_LAYERS, default=PATTERN)
    period = fields.integer("sliding_window_pattern", 1, MAX_LAYERS, default=period)
    return hf.sliding(fields, known["n_layers"], lambda layer: (layer + 1) % period != 0)


def _hf_window(fields: Fields, known: Known) -> int:
    return 0 if fields.is_null("sliding_window") else fields.integer("sliding_window", 1, MAX_CONTEXT, 4096)


def _hf_query_scale(fields: Fields, known: Known) -> float:
    return float(fields.number("query_pre_attn_scalar", 1e-6, MAX_WIDTH, default=256) ** -0.5)


def _hf_soft_cap(fields: Fields, known: Known) -> float:
    key = "final_logit_softcapping"
    return fields.number(key, 1e-6, 1e6) if fields.has(key) else 0.0


# ---- GGUF


def _gguf_local_rope(fields: Fields, known: Known) -> Rope:
    return Rope(known["head_dim"], fields.number("rope.freq_base_swa", 1, MAX_THETA, default=LOCAL_THETA))


def _default_query_scale(known: Known) -> float:
    # Only the 27B model has another scale than its head_dim's; llama.cpp, too, recognises it by its number of layers.
    scalar = known["hidden_size"] / known["n_heads"] if known["n_layers"] == 62 else known["head_dim"]
    return float(scalar**-0.5)


@dataclass(frozen=True, kw_only=True)
class Config(decoder.Config):
    """Configuration of a Gemma 3 model.

    Attributes:
        sliding: for each layer, whether it is a sliding-window layer (else global).
        window: number of positions that a token sees in a sliding-window layer, itself included.
        rope: the rotation of global layers.
        local_rope: the rotation of sliding-window layers.
        query_scale: factor of the scores: ``query_pre_attn_scalar ** -0.5``.
        attention_bias: whether the four attention matrices have biases.
        final_soft_cap: logits become ``cap * tanh(logit / cap)``; 0: they are not capped.
    """

    HF = hf.Table(
        ("gemma3_text",),
        {
            "vocab_size": Key("vocab_size", int, 1, MAX_VOCAB, 262_208),
            "context_length": partial(hf.context, default=131_072),
            "hidden_size": hf.SIZES["hidden_size"],
            "intermediate_size": hf.SIZES["intermediate_size"],
            "n_layers": hf.SIZES["n_layers"],
            "n_heads": Key("num_attention_heads", int, 1, MAX_HEADS, 8),
            "n_kv_heads": Key("num_key_value_heads", int, 1, MAX_HEADS, 4),
            "head_dim": Key("head_dim", int, 1, MAX_WIDTH, 256),
            "norm_eps": hf.eps(1e-6),
            "tie_word_embeddings": Key("tie_word_embeddings", bool, default=True),
            "sliding": _hf_sliding,
            "window": _hf_window,
            "rope": lambda fields, known: _hf_ropes(fields, known)[0],
            "local_rope": lambda fields, known: _hf_ropes(fields, known)[1],
            "query_scale": _hf_query_scale,
            "activation": Key("hidden_activation", ACTIVATIONS, default="gelu_pytorch_tanh"),
            "attention_bias": Key("attention_bias", bool, default=False),
            "final_soft_cap": _hf_soft_cap,
        },
        # transformers reads attn_logit_softcapping for Gemma 3 but does not apply it; no released model sets it.
        fixed={"use_bidirectional_attention": False, "attn_logit_softcapping": None},
    )
    GGUF = gguf.Table(
        "gemma3",
        {
            **gguf.SIZES,
            "sliding": gguf.sliding(PATTERN),
            "window": Key("attention.sliding_window", int, 1, MAX_CONTEXT),
            "rope": gguf.rope(GLOBAL_THETA),
            "local_rope": _gguf_local_rope,
            "query_scale": Key("attention.scale", float, 1e-6, 1e6, _default_query_scale),
        },
        fixed={"attn_logit_softcapping": None, "final_logit_softcapping": None},
    )

    sliding: tuple[bool, ...]
    window: int
    local_rope: Rope
    query_scale: float
    activation: str = "gelu_tanh"
    attention_bias: bool = False
    final_soft_cap: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(self.sliding) and self.window < 1:
            raise ConfigError("sliding_window: expected at least 1 in a model with sliding-window layers")

    @classmethod
    def from_hf(cls, values: Mapping[str, Any], where: str = "config.json", allow_unknown: bool = False) -> Self:
        """Read a ``config.json`` of type ``gemma3_text``, or ``gemma3`` with the text model in ``text_config``.

        Raises:
            ConfigError: it is malformed, or asks for something that this file does not compute.
        """
        if not isinstance(values, Mapping) or values.get("model_type") != "gemma3":
            return super().from_hf(values, where, allow_unknown)
        return super().from_hf(*vision.text_config(values, where, allow_unknown), allow_unknown)


class Model(decoder.Decoder[Config]):
    """Gemma 3's text model; see :class:`pyml_nn.Model`."""

    rules = vision.RULES

    @staticmethod
    def specs(config: Config) -> dict[str, Spec]:
        """Names and shapes of all weights."""
        attention = parts.attention(config, config.attention_bias, config.attention_bias)
        attention += parts.qk_norms(config)
        return parts.specs(config, parts.sandwich(config, attention, parts.gated(config)))

    def ropes(self, weights: Weights) -> list[tuple[str, Rope]]:
        """The rotation of every layer, with the name of the operation that computes its angles."""
        local, everywhere = ("rope.local", self.config.local_rope), ("rope.global", self.config.rope)
        return [local if sliding else everywhere for sliding in self.config.sliding]

    @property
    def embedding_scale(self) -> float:
        """Factor of the embeddings."""
        return float(np.float32(self.config.hidden_size**0.5))

    @property
    def logit_soft_cap(self) -> float:
        """Cap of the logits."""
        return self.config.final_soft_cap

    def norm(self, weights: Weights, name: str) -> RMSNorm:
        """Read one norm."""
        return decoder.offset_norm(weights, name, self.config.norm_eps)

    def block(self, weights: Weights, layer: int) -> SandwichBlock:
        """Read one layer."""
        config = self.config
        window = config.window if config.sliding[layer] else 0
        attention = decoder.read_attention(
            weights, layer, config, window=window, scale=config.query_scale, norm=self.norm
        )
        return self.sandwich_block(weights, layer, attention, decoder.read_gated(weights, layer, config.activation))
