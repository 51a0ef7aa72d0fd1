"""Gemma 2: four RMSNorms a block, capped scores and logits, every second layer with a sliding window.

Source: Gemma Team 2024, arXiv 2408.00118; transformers' ``modeling_gemma2.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..config import MAX_CONTEXT, MAX_WIDTH, Dimensions, Fields
from ..config.gguf import close_gguf, gguf_fields, gguf_sizes
from ..config.hf import close_hf, hf_fields, hf_sizes, hf_sliding
from ..config.rope import gguf_rope, hf_rope
from ..decoder import (
    attention_parts,
    declare_decoder,
    decoder_specs,
    gated_parts,
    offset_norm,
    read_attention,
    read_gated,
    read_sandwich,
    sandwich_parts,
)
from ..layers import ACTIVATIONS, RMSNorm, Rope, SandwichBlock, Scratch
from ..model import Model as BaseModel
from ..weights import Spec, Weights

WINDOW = 4096  # of files that do not tell
SCORE_CAP, FINAL_CAP = 50.0, 30.0


@dataclass(frozen=True, kw_only=True)
class Config(Dimensions):
    """What a Gemma 2 model computes.

    Attributes:
        rope: the rotation of every layer.
        windows: for every layer, how many positions a token sees, itself included; 0 is all.
        query_scale: factor of the scores: ``query_pre_attn_scalar ** -0.5``.
        score_soft_cap: scores become ``cap * tanh(score / cap)``; 0 is none.
        final_soft_cap: the same for logits.
        activation: of the gate.
        attention_bias: the four attention matrices have biases.
    """

    rope: Rope
    windows: tuple[int, ...]
    query_scale: float
    score_soft_cap: float = SCORE_CAP
    final_soft_cap: float = FINAL_CAP
    activation: str = "gelu_tanh"
    attention_bias: bool = False

    @classmethod
    def from_hf(cls, values: Mapping[str, Any], where: str = "config.json") -> Config:
        """From a ``config.json``; ConfigError if it is malformed or asks for something else than this file computes."""
        fields = hf_fields(values, where, ("gemma2",))
        sizes = hf_sizes(fields, eps=1e-6, tied=True)
        fields.fixed("use_bidirectional_attention", False)
        fields.raw("hidden_act")  # transformers goes by hidden_activation; the published files have both
        sliding = hf_sliding(fields, sizes["n_layers"], _slides)
        window = fields.integer("sliding_window", 1, MAX_CONTEXT, default=WINDOW)
        fields.fixed("sliding_window_size", window)
        config = cls(
            **sizes,
            rope=hf_rope(fields, sizes["head_dim"], sizes["context_length"]),
            windows=tuple(window if slides else 0 for slides in sliding),
            query_scale=fields.number("query_pre_attn_scalar", 1e-6, MAX_WIDTH, default=256) ** -0.5,
            score_soft_cap=_hf_cap(fields, "attn_logit_softcapping", SCORE_CAP),
            final_soft_cap=_hf_cap(fields, "final_logit_softcapping", FINAL_CAP),
            activation=fields.choice("hidden_activation", ACTIVATIONS, default="gelu_pytorch_tanh"),
            attention_bias=fields.flag("attention_bias", False),
        )
        close_hf(fields)
        return config

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> Config:
        """From a GGUF file's metadata; ConfigError if it is malformed or asks for something else."""
        fields = gguf_fields(metadata, "gemma2")
        sizes = gguf_sizes(fields, metadata)
        # The 27B model alone has another scale than its head_dim's; llama.cpp knows it by its number of layers too.
        scalar = sizes["hidden_size"] / sizes["n_heads"] if sizes["n_layers"] == 46 else sizes["head_dim"]
        window = fields.integer("attention.sliding_window", 1, MAX_CONTEXT, default=WINDOW)
        config = cls(
            **sizes,
            rope=gguf_rope(fields, sizes["head_dim"], sizes["context_length"]),
            windows=tuple(window if _slides(layer) else 0 for layer in range(sizes["n_layers"])),
            query_scale=scalar**-0.5,
            score_soft_cap=fields.number("attn_logit_softcapping", 1e-6, 1e6, default=SCORE_CAP),
            final_soft_cap=fields.number("final_logit_softcapping", 1e-6, 1e6, default=FINAL_CAP),
        )
        close_gguf(fields)
        return config


class Model(BaseModel[Config]):
    """A Gemma 2 model; see :class:`pyml_nn.model.Model`."""

    @staticmethod
    def specs(config: Config) -> dict[str, Spec]:
        """Every weight: internal name -> names in files, shape."""
        attention = attention_parts(config, config.attention_bias, config.attention_bias)
        return decoder_specs(config, sandwich_parts(config, attention, gated_parts(config)))

    def declare(self, weights: Weights, scratch: Scratch) -> None:
        """Read the weights and declare the program."""
        config = self.config
        declare_decoder(
            weights, scratch, config, [("rope", config.rope)] * config.n_layers, self._block, self._norm,
            embedding_scale=float(np.float32(config.hidden_size**0.5)), soft_cap=config.final_soft_cap,
        )  # fmt: skip

    def _block(self, weights: Weights, layer: int) -> SandwichBlock:
        config = self.config
        attention = read_attention(
            weights, layer, config,
            window=config.windows[layer], scale=config.query_scale, soft_cap=config.score_soft_cap,
        )  # fmt: skip
        return read_sandwich(weights, layer, attention, read_gated(weights, layer, config.activation), self._norm)

    def _norm(self, weights: Weights, name: str) -> RMSNorm:
        return offset_norm(weights, name, self.config.norm_eps)


def _slides(layer: int) -> bool:
    return layer % 2 == 0


def _hf_cap(fields: Fields, key: str, default: float) -> float:
    return 0.0 if fields.is_null(key) else fields.number(key, 1e-6, 1e6, default=default)
