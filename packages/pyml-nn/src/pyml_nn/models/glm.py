"""GLM-4 9B of 2024 and GLM-Edge: Llama with neighbouring elements of a part of each head rotated, gate and up in one.

Source: Team GLM 2024, arXiv 2406.12793; transformers' ``modeling_glm.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from .. import decoder, parts
from ..config import Key, Reader, constant, gguf, hf
from ..layers import Attention, PreNormBlock, SandwichBlock
from ..weights import Spec, Weights

HF_ROWS: Mapping[str, Reader] = MappingProxyType(
    {
        **hf.SIZES,
        "norm_eps": hf.eps(1.5625e-07),
        "rope": hf.rope(partial=0.5),
        "activation": hf.ACTIVATION,
        "qkv_bias": Key("attention_bias", bool, default=True),
    }
)
GGUF_ROWS: Mapping[str, Reader] = MappingProxyType(
    {**gguf.SIZES, "rope": gguf.rope(partial=True), "qkv_bias": constant(None)}
)


@dataclass(frozen=True, kw_only=True)
class Config(decoder.Config):
    """Configuration of a GLM model.

    Attributes:
        qkv_bias: whether q, k and v have biases; None: if the weights have them (GGUF files do not say).
    """

    HF = hf.Table(("glm",), HF_ROWS)
    GGUF = gguf.Table("chatglm", GGUF_ROWS)

    qkv_bias: bool | None


class Model(decoder.Decoder[Config]):
    """A GLM model; see :class:`pyml_nn.Model`."""

    @staticmethod
    def specs(config: Config) -> dict[str, Spec]:
        """Names and shapes of all weights."""
        attention = parts.attention(config, config.qkv_bias)
        return parts.specs(config, parts.pre_norm(config, attention, parts.gate_up(config)))

    def attention(self, weights: Weights, layer: int) -> Attention:
        """Read the attention of one layer; the rows of q and k are interleaved in all files."""
        return decoder.read_attention(weights, layer, self.config, interleaved=True, rotated=self.config.rope.dim)

    def block(self, weights: Weights, layer: int) -> PreNormBlock | SandwichBlock:
        """Read one layer."""
        config, name = self.config, f"layers.{layer}"
        return PreNormBlock(
            self.norm(weights, f"{name}.attention.norm"),
            self.attention(weights, layer),
            self.norm(weights, f"{name}.feed_forward.norm"),
            decoder.read_gate_up(weights, layer, config.activation),
        )
