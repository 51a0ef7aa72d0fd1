"""ERNIE 4.5 (dense): Llama whose rotation takes neighbouring elements of a head as pairs.

Source: Baidu 2025, ERNIE 4.5 technical report; transformers' ``modeling_ernie4_5.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

from .. import decoder, parts
from ..config import Key, constant, gguf, hf
from ..layers import PreNormBlock
from ..weights import Spec, Weights


@dataclass(frozen=True, kw_only=True)
class Config(decoder.Config):
    """Configuration of an ERNIE 4.5 model.

    Attributes:
        bias: whether all matrices of attention and feed-forward have biases; None: if the weights have them (GGUF files
            do not say).
    """

    HF = hf.Table(
        ("ernie4_5",),
        {
            **hf.SIZES,
            "norm_eps": hf.eps(1e-5),
            "tie_word_embeddings": Key("tie_word_embeddings", bool, default=True),
            "rope": hf.rope(500_000.0),
            "activation": hf.ACTIVATION,
            "bias": Key("use_bias", bool, default=False),
        },
    )
    GGUF = gguf.Table("ernie4_5", {**gguf.SIZES, "rope": gguf.rope(), "bias": constant(None)})

    bias: bool | None


class Model(decoder.Decoder[Config]):
    """An ERNIE 4.5 model; see :class:`pyml_nn.Model`."""

    @staticmethod
    def specs(config: Config) -> dict[str, Spec]:
        """Names and shapes of all weights."""
        attention = parts.attention(config, config.bias, config.bias)
        return parts.specs(config, parts.pre_norm(config, attention, parts.gated(config, config.bias)))

    def block(self, weights: Weights, layer: int) -> PreNormBlock:
        """Read one layer; the rows of q and k are interleaved in all files."""
        config, name = self.config, f"layers.{layer}"
        return PreNormBlock(
            self.norm(weights, f"{name}.attention.norm"),
            decoder.read_attention(weights, layer, config, interleaved=True),
            self.norm(weights, f"{name}.feed_forward.norm"),
            decoder.read_gated(weights, layer, config.activation),
        )
