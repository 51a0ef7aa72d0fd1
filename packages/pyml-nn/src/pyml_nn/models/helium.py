"""Helium 1 preview: Llama whose rotation takes neighbouring elements of a head as pairs.

GGUF files have no name for it.

Source: Kyutai 2025, Helium 1 preview; transformers' ``modeling_helium.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

from .. import decoder, parts
from ..config import Key, constant, hf
from ..layers import PreNormBlock
from ..weights import Spec, Weights
from . import llama


@dataclass(frozen=True, kw_only=True)
class Config(llama.Config):
    """Configuration of a Helium model; ``attention_bias`` is of q, k and v."""

    HF = hf.Table(
        ("helium",),
        {
            **hf.SIZES,
            "norm_eps": hf.eps(1e-8),
            "rope": hf.rope(100_000.0),
            "activation": hf.ACTIVATION,
            "window": constant(0),
            "attention_bias": Key("attention_bias", bool, default=False),
            "mlp_bias": Key("mlp_bias", bool, default=False),
        },
    )


class Model(llama.Model):
    """A Helium model; see :class:`pyml_nn.Model`."""

    @staticmethod
    def specs(config: llama.Config) -> dict[str, Spec]:
        """Names and shapes of all weights."""
        attention = parts.attention(config, config.attention_bias)
        return parts.specs(config, parts.pre_norm(config, attention, parts.gated(config, config.mlp_bias)))

    def block(self, weights: Weights, layer: int) -> PreNormBlock:
        """Read one layer; the rows of q and k are interleaved."""
        config, name = self.config, f"layers.{layer}"
        return PreNormBlock(
            self.norm(weights, f"{name}.attention.norm"),
            decoder.read_attention(weights, layer, config, interleaved=True),
            self.norm(weights, f"{name}.feed_forward.norm"),
            decoder.read_gated(weights, layer, config.activation),
        )
