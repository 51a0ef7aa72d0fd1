"""Qwen 2 and 2.5: Llama with biases on q, k and v, and optionally a sliding window in the upper layers.

Source: Yang et al. 2024, arXiv 2407.10671; transformers' ``modeling_qwen2.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

from .. import decoder, parts
from ..config import gguf, hf
from ..layers import PreNormBlock
from ..weights import Spec, Weights


@dataclass(frozen=True, kw_only=True)
class Config(decoder.Config):
    """Configuration of a Qwen 2 model.

    Attributes:
        windows: for each layer, the number of positions that a token sees, itself included; 0: all.
    """

    HF = hf.Table(
        ("qwen2",),
        {**hf.SIZES, "rope": hf.rope(), "windows": hf.windows, "activation": hf.ACTIVATION},
        fixed={"use_mrope": False},
    )
    GGUF = gguf.Table(
        "qwen2",
        {**gguf.SIZES, "rope": gguf.rope(), "windows": gguf.no_windows},
        aliases=("qwen2vl",),
        harmless=gguf.IMAGES,
    )

    windows: tuple[int, ...]


class Model(decoder.Decoder[Config]):
    """A Qwen 2 model; see :class:`pyml_nn.Model`."""

    @staticmethod
    def specs(config: Config) -> dict[str, Spec]:
        """Names and shapes of all weights."""
        attention = parts.attention(config, qkv_bias=True)
        return parts.specs(config, parts.pre_norm(config, attention, parts.gated(config)))

    def block(self, weights: Weights, layer: int) -> PreNormBlock:
        """Read one layer."""
        config, name = self.config, f"layers.{layer}"
        return PreNormBlock(
            self.norm(weights, f"{name}.attention.norm"),
            decoder.read_attention(weights, layer, config, window=config.windows[layer]),
            self.norm(weights, f"{name}.feed_forward.norm"),
            decoder.read_gated(weights, layer, config.activation),
        )
