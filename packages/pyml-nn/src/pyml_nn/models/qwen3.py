"""Qwen 3: Llama with a norm of every query and key head, and perhaps a sliding window in the upper layers.

Source: Qwen Team 2025, arXiv 2505.09388; transformers' ``modeling_qwen3.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..config import Dimensions
from ..config.gguf import close_gguf, gguf_fields, gguf_sizes
from ..config.hf import close_hf, hf_fields, hf_sizes
from ..config.rope import gguf_rope, hf_rope
from ..decoder import (
    attention_parts,
    declare_decoder,
    decoder_specs,
    gated_parts,
    norm_part,
    qk_norm_parts,
    read_attention,
    read_gated,
    rms_norm,
)
from ..layers import ACTIVATIONS, PreNormBlock, RMSNorm, Rope, Scratch
from ..model import Model as BaseModel
from ..weights import Spec, Weights
from .qwen2 import hf_windows


@dataclass(frozen=True, kw_only=True)
class Config(Dimensions):
    """What a Qwen 3 model computes.

    Attributes:
        rope: the rotation of every layer.
        windows: for every layer, how many positions a token sees, itself included; 0 is all.
        activation: of the gate.
        attention_bias: the four attention matrices have biases; None: where the weights have them (GGUF does not tell).
    """

    rope: Rope
    windows: tuple[int, ...]
    activation: str = "silu"
    attention_bias: bool | None = False

    @classmethod
    def from_hf(cls, values: Mapping[str, Any], where: str = "config.json") -> Config:
        """From a ``config.json``; ConfigError if it is malformed or asks for something else than this file computes."""
        fields = hf_fields(values, where, ("qwen3",))
        sizes = hf_sizes(fields, eps=1e-6)
        config = cls(
            **sizes,
            rope=hf_rope(fields, sizes["head_dim"], sizes["context_length"]),
            windows=hf_windows(fields, sizes["n_layers"]),
            activation=fields.choice("hidden_act", ACTIVATIONS, default="silu"),
            attention_bias=fields.flag("attention_bias", False),
        )
        close_hf(fields)
        return config

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> Config:
        """From a GGUF file's metadata; ConfigError if it is malformed or asks for something else."""
        fields = gguf_fields(metadata, "qwen3")
        sizes = gguf_sizes(fields, metadata)
        rope = gguf_rope(fields, sizes["head_dim"], sizes["context_length"])
        close_gguf(fields)
        return cls(**sizes, rope=rope, windows=(0,) * sizes["n_layers"], attention_bias=None)


class Model(BaseModel[Config]):
    """A Qwen 3 model; see :class:`pyml_nn.model.Model`."""

    @staticmethod
    def specs(config: Config) -> dict[str, Spec]:
        """Every weight: internal name -> names in files, shape."""
        return decoder_specs(
            config,
            [
                norm_part(config, "attention", "input_layernorm", "attn_norm"),
                *attention_parts(config, config.attention_bias, config.attention_bias),
                *qk_norm_parts(config),
                norm_part(config, "feed_forward", "post_attention_layernorm", "ffn_norm"),
                *gated_parts(config),
            ],
        )

    def declare(self, weights: Weights, scratch: Scratch) -> None:
        """Read the weights and declare the program."""
        config = self.config
        declare_decoder(weights, scratch, config, [("rope", config.rope)] * config.n_layers, self._block, self._norm)

    def _block(self, weights: Weights, layer: int) -> PreNormBlock:
        config, name = self.config, f"layers.{layer}"
        return PreNormBlock(
            attention_norm=self._norm(weights, f"{name}.attention.norm"),
            attention=read_attention(weights, layer, config, window=config.windows[layer], norm=self._norm),
            feed_forward_norm=self._norm(weights, f"{name}.feed_forward.norm"),
            feed_forward=read_gated(weights, layer, config.activation),
        )

    def _norm(self, weights: Weights, name: str) -> RMSNorm:
        return rms_norm(weights, name, self.config.norm_eps)
