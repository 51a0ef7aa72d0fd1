"""GLM-4-0414 (9B, 32B) and GLM-Z1: GLM with norms after each branch as well.

Source: Team GLM 2024, arXiv 2406.12793; transformers' ``modeling_glm4.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

from .. import decoder, parts
from ..config import gguf, hf
from ..layers import SandwichBlock
from ..weights import Spec, Weights
from . import glm


@dataclass(frozen=True, kw_only=True)
class Config(glm.Config):
    """Configuration of a GLM-4 model."""

    HF = hf.Table(("glm4",), glm.HF_ROWS)
    GGUF = gguf.Table("glm4", glm.GGUF_ROWS)


class Model(glm.Model):
    """A GLM-4 model; see :class:`pyml_nn.Model`."""

    @staticmethod
    def specs(config: glm.Config) -> dict[str, Spec]:
        """Names and shapes of all weights."""
        hidden, attention = config.hidden_size, parts.attention(config, config.qkv_bias)
        return parts.specs(
            config,
            [
                *parts.pre_norm(config, attention, parts.gate_up(config)),
                parts.Part("attention.post_norm", "post_self_attn_layernorm", "post_attention_norm", (hidden,)),
                parts.Part("feed_forward.post_norm", "post_mlp_layernorm", "post_ffw_norm", (hidden,)),
            ],
        )

    def block(self, weights: Weights, layer: int) -> SandwichBlock:
        """Read one layer."""
        feed_forward = decoder.read_gate_up(weights, layer, self.config.activation)
        return self.sandwich_block(weights, layer, self.attention(weights, layer), feed_forward)
