"""Phi 1, 1.5 and 2: parallel branches with one LayerNorm, a part of each head rotated, biases, also of the head.

Source: Li et al. 2023, arXiv 2309.05463; transformers' ``modeling_phi.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

from .. import decoder, parts
from ..config import Key, constant, gguf, hf
from ..layers import ACTIVATIONS, LayerNorm, ParallelBlock
from ..weights import Spec, Weights


@dataclass(frozen=True, kw_only=True)
class Config(decoder.Config):
    """Configuration of a Phi model."""

    HF = hf.Table(
        ("phi",),
        {
            **hf.SIZES,
            "norm_eps": Key("layer_norm_eps", float, 0, 1, 1e-5),
            "rope": hf.rope(partial=0.5),
            "activation": Key("hidden_act", ACTIVATIONS, default="gelu_new"),
        },
        fixed={"qk_layernorm": False},
    )
    GGUF = gguf.Table(
        "phi2",
        {
            **gguf.SIZES,
            "norm_eps": gguf.eps("layer_norm_epsilon"),
            "rope": gguf.rope(partial=True),
            "activation": constant("gelu_tanh"),
        },
    )


class Model(decoder.Decoder[Config]):
    """A Phi model; see :class:`pyml_nn.Model`."""

    @staticmethod
    def specs(config: Config) -> dict[str, Spec]:
        """Names and shapes of all weights."""
        hidden, inner, width = config.hidden_size, config.intermediate_size, config.n_heads * config.head_dim
        *qkv, _ = parts.attention(config, qkv_bias=True)
        found = parts.specs(
            config,
            [
                parts.norm(config, "attention", "input_layernorm", "attn_norm", bias=True),
                *qkv,
                parts.Part("attention.out", "self_attn.dense", "attn_output", (hidden, width), bias=True),
                parts.Part("feed_forward.up", "mlp.fc1", "ffn_up", (inner, hidden), bias=True),
                parts.Part("feed_forward.down", "mlp.fc2", "ffn_down", (hidden, inner), bias=True),
            ],
            final_norm="final_layernorm",
            norm_bias=True,
        )
        return found | {"head.bias": Spec("lm_head.bias", "output.bias", (config.vocab_size,))}

    def final_norm(self, weights: Weights) -> LayerNorm:
        """Read the norm before the head."""
        return decoder.layer_norm(weights, "final_norm", self.config.norm_eps)

    def block(self, weights: Weights, layer: int) -> ParallelBlock:
        """Read one layer."""
        config = self.config
        norm = decoder.layer_norm(weights, f"layers.{layer}.attention.norm", config.norm_eps)
        attention = decoder.read_attention(weights, layer, config)
        return ParallelBlock(None, attention, norm, decoder.read_plain(weights, layer, config.activation))
