"""Llama 1 to 3 and what is built alike (SmolLM2; Mistral in GGUF files, which call it so).

RMSNorm before each branch, RoPE, grouped heads, a gated feed-forward; biases, a tied head and a head_dim of its own
where the configuration says so.

Source: Touvron et al. 2023, arXiv 2307.09288; Llama Team 2024, arXiv 2407.21783; transformers' ``modeling_llama.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..config import MAX_CONTEXT, Dimensions
from ..config.gguf import close_gguf, gguf_fields, gguf_sizes
from ..config.hf import close_hf, hf_fields, hf_sizes, hf_sliding
from ..config.rope import gguf_rope, hf_rope, with_factors
from ..decoder import (
    attention_parts,
    declare_decoder,
    decoder_specs,
    gated_parts,
    norm_part,
    read_attention,
    read_gated,
    rms_norm,
)
from ..layers import ACTIVATIONS, PreNormBlock, RMSNorm, Rope, Scratch
from ..model import Model as BaseModel
from ..weights import Spec, Weights


@dataclass(frozen=True, kw_only=True)
class Config(Dimensions):
    """What a Llama model computes.

    Attributes:
        rope: the rotation of every layer.
        activation: of the gate.
        window: a token sees so many positions, itself included; 0 is all.
        attention_bias: the four attention matrices have biases; None: where the weights have them (GGUF does not tell).
        mlp_bias: the three feed-forward matrices have biases; None as above.
    """

    rope: Rope
    activation: str = "silu"
    window: int = 0
    attention_bias: bool | None = False
    mlp_bias: bool | None = False

    def window_of(self, layer: int) -> int:
        """The window of a layer; 0 is all."""
        return self.window

    @classmethod
    def from_hf(cls, values: Mapping[str, Any], where: str = "config.json") -> Config:
        """From a ``config.json``; ConfigError if it is malformed or asks for something else than this file computes."""
        fields = hf_fields(values, where, ("llama",))
        sizes = hf_sizes(fields, eps=1e-6)
        fields.fixed("rope_interleaved", False)
        fields.fixed("qk_layer_norms", False)
        if any(hf_sliding(fields, sizes["n_layers"], lambda layer: False)):
            raise fields.error("layer_types", "expected no sliding_attention in a Llama model")
        config = cls(
            **sizes,
            rope=hf_rope(fields, sizes["head_dim"], sizes["context_length"]),
            activation=fields.choice("hidden_act", ACTIVATIONS, default="silu"),
            attention_bias=fields.flag("attention_bias", False),
            mlp_bias=fields.flag("mlp_bias", False),
        )
        close_hf(fields)
        return config

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> Config:
        """From a GGUF file's metadata; ConfigError if it is malformed or asks for something else."""
        fields = gguf_fields(metadata, "llama")
        sizes = gguf_sizes(fields, metadata)
        config = cls(
            **sizes,
            rope=gguf_rope(fields, sizes["head_dim"], sizes["context_length"]),
            window=fields.integer("attention.sliding_window", 0, MAX_CONTEXT, default=0),
            attention_bias=None,
            mlp_bias=None,
        )
        close_gguf(fields)
        return config


class Model(BaseModel[Config]):
    """A Llama model; see :class:`pyml_nn.model.Model`."""

    @staticmethod
    def specs(config: Config) -> dict[str, Spec]:
        """Every weight: internal name -> names in files, shape."""
        factors = {"rope.factors": Spec("", "rope_freqs.weight", (config.rope.dim // 2,), optional="factors")}
        return factors | decoder_specs(
            config,
            [
                norm_part(config, "attention", "input_layernorm", "attn_norm"),
                *attention_parts(config, config.attention_bias, config.attention_bias),
                norm_part(config, "feed_forward", "post_attention_layernorm", "ffn_norm"),
                *gated_parts(config, config.mlp_bias),
            ],
        )

    def declare(self, weights: Weights, scratch: Scratch) -> None:
        """Read the weights and declare the program."""
        config, rope = self.config, self.config.rope
        if weights.has("rope.factors"):
            rope = with_factors(rope, weights.array("rope.factors"))
        declare_decoder(weights, scratch, config, [("rope", rope)] * config.n_layers, self._block, self._norm)

    def _block(self, weights: Weights, layer: int) -> PreNormBlock:
        config, name = self.config, f"layers.{layer}"
        return PreNormBlock(
            attention_norm=self._norm(weights, f"{name}.attention.norm"),
            attention=read_attention(weights, layer, config, window=config.window_of(layer), interleaved=weights.gguf),
            feed_forward_norm=self._norm(weights, f"{name}.feed_forward.norm"),
            feed_forward=read_gated(weights, layer, config.activation),
        )

    def _norm(self, weights: Weights, name: str) -> RMSNorm:
        return rms_norm(weights, name, self.config.norm_eps)
