"""Qwen 3: Llama with a norm of every query and key head, and optionally a sliding window in the upper layers.

Source: Qwen Team 2025, arXiv 2505.09388; transformers' ``modeling_qwen3.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

from .. import decoder, parts
from ..config import Key, constant, gguf, hf
from ..layers import PreNormBlock
from ..weights import Spec, Weights


@dataclass(frozen=True, kw_only=True)
class Config(decoder.Config):
    """Configuration of a Qwen 3 model.

    Attributes:
        windows: for each layer, the number of positions that a token sees, itself included; 0: all.
        attention_bias: whether the four attention matrices have biases; None: if the weights have them (GGUF files do
            not say).
    """

    HF = hf.Table(
        ("qwen3",),
        {
            **hf.SIZES,
            "rope": hf.rope(),
            "windows": hf.windows,
            "activation": hf.ACTIVATION,
            "attention_bias": Key("attention_bias", bool, default=False),
        },
    )
    GGUF = gguf.Table(
        "qwen3",
        {**gguf.SIZES, "rope": gguf.rope(), "windows": gguf.no_windows, "attention_bias": constant(None)},
        aliases=("qwen3vl",),
        harmless=gguf.IMAGES,
    )

    windows: tuple[int, ...]
    attention_bias: bool | None = False


class Model(decoder.Decoder[Config]):
    """A Qwen 3 model; see :class:`pyml_nn.Model`."""

    @staticmethod
    def specs(config: Config) -> dict[str, Spec]:
        """Names and shapes of all weights."""
        attention = parts.attention(config, config.attention_bias, config.attention_bias)
        attention += parts.qk_norms(config)
        return parts.specs(config, parts.pre_norm(config, attention, parts.gated(config)))

    def block(self, weights: Weights, layer: int) -> PreNormBlock:
        """Read one layer."""
        config, name = self.config, f"layers.{layer}"
        return PreNormBlock(
            self.norm(weights, f"{name}.attention.norm"),
            decoder.read_attention(weights, layer, config, window=config.windows[layer], norm=self.norm),
            self.norm(weights, f"{name}.feed_forward.norm"),
            decoder.read_gated(weights, layer, config.activation),
        )
