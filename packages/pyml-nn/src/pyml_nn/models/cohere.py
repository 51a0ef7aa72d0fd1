"""Command R, Aya 23 and Aya Expanse: parallel branches, LayerNorms without biases, scaled logits.

The rotation takes neighbouring elements of a head as pairs.

Source: Cohere 2024, Aya Expanse, arXiv 2412.04261; transformers' ``modeling_cohere.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from .. import decoder, parts
from ..config import Key, Reader, constant, gguf, hf
from ..layers import Attention, LayerNorm, ParallelBlock
from ..weights import Spec, Weights

HF_ROWS: Mapping[str, Reader] = MappingProxyType(
    {
        **hf.SIZES,
        "norm_eps": Key("layer_norm_eps", float, 0, 1, 1e-5),
        "tie_word_embeddings": Key("tie_word_embeddings", bool, default=True),
        "activation": hf.ACTIVATION,
        "logit_scale": Key("logit_scale", float, 1e-6, 1e6, 0.0625),
        "attention_bias": Key("attention_bias", bool, default=False),
    }
)
GGUF_ROWS: Mapping[str, Reader] = MappingProxyType(
    {
        **gguf.SIZES,
        "norm_eps": gguf.eps("layer_norm_epsilon"),
        "rope": gguf.rope(),
        "logit_scale": Key("logit_scale", float, 1e-6, 1e6),
        "attention_bias": constant(None),
    }
)


@dataclass(frozen=True, kw_only=True)
class Config(decoder.Config):
    """Configuration of a Cohere model.

    Attributes:
        logit_scale: factor of the logits.
        attention_bias: whether the four attention matrices have biases; None: if the weights have them (GGUF files do
            not say).
    """

    HF = hf.Table(("cohere",), {**HF_ROWS, "rope": hf.rope(500_000.0)}, fixed={"use_qk_norm": False})
    GGUF = gguf.Table("command-r", GGUF_ROWS)

    logit_scale: float
    attention_bias: bool | None


class Model(decoder.Decoder[Config]):
    """A Cohere model; see :class:`pyml_nn.Model`."""

    @staticmethod
    def specs(config: Config) -> dict[str, Spec]:
        """Names and shapes of all weights."""
        return parts.specs(
            config,
            [
                parts.norm(config, "attention", "input_layernorm", "attn_norm"),
                *parts.attention(config, config.attention_bias, config.attention_bias),
                *parts.gated(config),
            ],
        )

    def final_norm(self, weights: Weights) -> LayerNorm:
        """Read the norm before the head, with the factor of the logits."""
        norm = decoder.layer_norm(weights, "final_norm", self.config.norm_eps)
        return LayerNorm(norm.weight * np.float32(self.config.logit_scale), norm.bias, norm.eps)

    def attention(self, weights: Weights, layer: int) -> Attention:
        """Read the attention of one layer; the rows of q and k are interleaved in all files."""
        return decoder.read_attention(weights, layer, self.config, interleaved=True)

    def block(self, weights: Weights, layer: int) -> ParallelBlock:
        """Read one layer."""
        config = self.config
        norm = decoder.layer_norm(weights, f"layers.{layer}.attention.norm", config.norm_eps)
        attention = self.attention(weights, layer)
        return ParallelBlock(None, attention, norm, decoder.read_gated(weights, layer, config.activation))
