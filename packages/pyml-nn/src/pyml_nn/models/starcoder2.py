"""StarCoder 2: LayerNorms, biases, RoPE, grouped heads, a plain feed-forward, a sliding window.

Source: Lozhkov et al. 2024, arXiv 2402.19173; transformers' ``modeling_starcoder2.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

from .. import decoder, parts
from ..config import Key, constant, gguf, hf
from ..layers import ACTIVATIONS, LayerNorm, PreNormBlock
from ..weights import Spec, Weights


@dataclass(frozen=True, kw_only=True)
class Config(decoder.Config):
    """Configuration of a StarCoder 2 model.

    Attributes:
        window: number of positions that a token sees, itself included; 0: all.
        bias: whether all matrices of attention and feed-forward have biases; None: if the weights have them (GGUF files
            do not say).
    """

    HF = hf.Table(
        ("starcoder2",),
        {
            **hf.SIZES,
            "norm_eps": Key("norm_epsilon", float, 0, 1, 1e-5),
            "tie_word_embeddings": Key("tie_word_embeddings", bool, default=True),
            "rope": hf.rope(),
            "activation": Key("hidden_act", ACTIVATIONS, default="gelu_pytorch_tanh"),
            "window": hf.window(),
            "bias": Key("use_bias", bool, default=True),
        },
        # Of older files; transformers reads none of them.
        fixed={"mlp_type": "default", "norm_type": "layer_norm", "scale_attn_weights": True},
        harmless=("attention_softmax_in_fp32", "layer_norm_epsilon", "scale_attention_softmax_in_fp32"),
    )
    GGUF = gguf.Table(
        "starcoder2",
        {
            **gguf.SIZES,
            "norm_eps": gguf.eps("layer_norm_epsilon"),
            "rope": gguf.rope(),
            "activation": constant("gelu_tanh"),
            "window": gguf.WINDOW,
            "bias": constant(None),
        },
    )

    window: int
    bias: bool | None


class Model(decoder.Decoder[Config]):
    """A StarCoder 2 model; see :class:`pyml_nn.Model`."""

    @staticmethod
    def specs(config: Config) -> dict[str, Spec]:
        """Names and shapes of all weights."""
        hidden, inner = config.hidden_size, config.intermediate_size
        return parts.specs(
            config,
            [
                parts.norm(config, "attention", "input_layernorm", "attn_norm", bias=True),
                *parts.attention(config, config.bias, config.bias),
                parts.norm(config, "feed_forward", "post_attention_layernorm", "ffn_norm", bias=True),
                parts.Part("feed_forward.up", "mlp.c_fc", "ffn_up", (inner, hidden), config.bias),
                parts.Part("feed_forward.down", "mlp.c_proj", "ffn_down", (hidden, inner), config.bias),
            ],
            norm_bias=True,
        )

    def final_norm(self, weights: Weights) -> LayerNorm:
        """Read the norm before the head."""
        return decoder.layer_norm(weights, "final_norm", self.config.norm_eps)

    def block(self, weights: Weights, layer: int) -> PreNormBlock:
        """Read one layer."""
        config, name = self.config, f"layers.{layer}"
        return PreNormBlock(
            decoder.layer_norm(weights, f"{name}.attention.norm", config.norm_eps),
            decoder.read_attention(weights, layer, config, window=config.window),
            decoder.layer_norm(weights, f"{name}.feed_forward.norm", config.norm_eps),
            decoder.read_plain(weights, layer, config.activation),
        )
