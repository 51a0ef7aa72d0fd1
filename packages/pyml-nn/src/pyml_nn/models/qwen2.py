"""Qwen 2 and 2.5: Llama with biases on q, k and v, and perhaps a sliding window in the upper layers.

Source: Yang et al. 2024, arXiv 2407.10671; transformers' ``modeling_qwen2.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..config import MAX_CONTEXT, MAX_LAYERS, Dimensions, Fields
from ..config.gguf import close_gguf, gguf_fields, gguf_sizes
from ..config.hf import close_hf, hf_fields, hf_sizes, hf_sliding
from ..config.rope import gguf_rope, hf_rope
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
    """What a Qwen 2 model computes.

    Attributes:
        rope: the rotation of every layer.
        windows: for every layer, how many positions a token sees, itself included; 0 is all.
        activation: of the gate.
    """

    rope: Rope
    windows: tuple[int, ...]
    activation: str = "silu"

    @classmethod
    def from_hf(cls, values: Mapping[str, Any], where: str = "config.json") -> Config:
        """From a ``config.json``; ConfigError if it is malformed or asks for something else than this file computes."""
        fields = hf_fields(values, where, ("qwen2",))
        sizes = hf_sizes(fields, eps=1e-6)
        fields.fixed("use_mrope", False)
        config = cls(
            **sizes,
            rope=hf_rope(fields, sizes["head_dim"], sizes["context_length"]),
            windows=hf_windows(fields, sizes["n_layers"]),
            activation=fields.choice("hidden_act", ACTIVATIONS, default="silu"),
        )
        close_hf(fields)
        return config

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> Config:
        """From a GGUF file's metadata; ConfigError if it is malformed or asks for something else."""
        fields = gguf_fields(metadata, "qwen2")
        sizes = gguf_sizes(fields, metadata)
        rope = gguf_rope(fields, sizes["head_dim"], sizes["context_length"])
        close_gguf(fields)
        return cls(**sizes, rope=rope, windows=(0,) * sizes["n_layers"])


class Model(BaseModel[Config]):
    """A Qwen 2 model; see :class:`pyml_nn.model.Model`."""

    @staticmethod
    def specs(config: Config) -> dict[str, Spec]:
        """Every weight: internal name -> names in files, shape."""
        return decoder_specs(
            config,
            [
                norm_part(config, "attention", "input_layernorm", "attn_norm"),
                *attention_parts(config, qkv_bias=True),
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
            attention=read_attention(weights, layer, config, window=config.windows[layer]),
            feed_forward_norm=self._norm(weights, f"{name}.feed_forward.norm"),
            feed_forward=read_gated(weights, layer, config.activation),
        )

    def _norm(self, weights: Weights, name: str) -> RMSNorm:
        return rms_norm(weights, name, self.config.norm_eps)


def hf_windows(fields: Fields, n_layers: int) -> tuple[int, ...]:
    """Every layer's window by Qwen's keys: ``sliding_window`` counts with ``use_sliding_window`` only.

    Which layers slide, ``layer_types`` says, or ``max_window_layers``: those from there on.
    """
    used = fields.flag("use_sliding_window", False)
    if used and not fields.is_null("sliding_window"):
        window = fields.integer("sliding_window", 1, MAX_CONTEXT, default=4096)
    else:
        window = 0
        fields.raw("sliding_window")
    first = fields.integer("max_window_layers", 0, MAX_LAYERS, default=28)
    sliding = hf_sliding(fields, n_layers, lambda layer: window > 0 and layer >= first)
    if any(sliding) and not window:
        raise fields.error("layer_types", "expected no sliding_attention in a model that uses no sliding_window")
    return tuple(window if slides else 0 for slides in sliding)
