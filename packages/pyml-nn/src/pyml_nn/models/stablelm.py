"""StableLM 3B and StableLM 2: Llama with LayerNorms, a part of each head rotated, and optionally parallel branches.

Source: Bellagente et al. 2024, arXiv 2402.17834; transformers' ``modeling_stablelm.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

from .. import decoder, parts
from ..config import Key, constant, gguf, hf
from ..layers import LayerNorm, ParallelBlock, PreNormBlock
from ..weights import Spec, Weights


@dataclass(frozen=True, kw_only=True)
class Config(decoder.Config):
    """Configuration of a StableLM model.

    Attributes:
        parallel: whether attention and feed-forward are parallel branches, else one follows the other.
        qkv_bias: whether q, k and v have biases; None: if the weights have them (GGUF files do not say).
    """

    HF = hf.Table(
        ("stablelm",),
        {
            **hf.SIZES,
            "norm_eps": Key("layer_norm_eps", float, 0, 1, 1e-5),
            "rope": hf.rope(partial=0.25),
            "activation": hf.ACTIVATION,
            "parallel": Key("use_parallel_residual", bool, default=False),
            "qkv_bias": Key("use_qkv_bias", bool, default=False),
        },
        fixed={"qk_layernorm": False},
    )
    GGUF = gguf.Table(
        "stablelm",
        {
            **gguf.SIZES,
            "norm_eps": gguf.eps("layer_norm_epsilon"),
            "rope": gguf.rope(partial=True),
            "parallel": Key("use_parallel_residual", bool, default=True),
            "qkv_bias": constant(None),
        },
    )

    parallel: bool
    qkv_bias: bool | None


class Model(decoder.Decoder[Config]):
    """A StableLM model; see :class:`pyml_nn.Model`."""

    @staticmethod
    def specs(config: Config) -> dict[str, Spec]:
        """Names and shapes of all weights."""
        norms = [parts.norm(config, "attention", "input_layernorm", "attn_norm", bias=True)]
        if not config.parallel:
            norms.append(parts.norm(config, "feed_forward", "post_attention_layernorm", "ffn_norm", bias=True))
        layer = [*norms, *parts.attention(config, config.qkv_bias), *parts.gated(config)]
        return parts.specs(config, layer, norm_bias=True)

    def final_norm(self, weights: Weights) -> LayerNorm:
        """Read the norm before the head."""
        return decoder.layer_norm(weights, "final_norm", self.config.norm_eps)

    def block(self, weights: Weights, layer: int) -> PreNormBlock | ParallelBlock:
        """Read one layer."""
        config, name = self.config, f"layers.{layer}"
        norm = decoder.layer_norm(weights, f"{name}.attention.norm", config.norm_eps)
        attention = decoder.read_attention(weights, layer, config)
        if config.parallel:
            return ParallelBlock(None, attention, norm, decoder.read_gated(weights, layer, config.activation))
        post_norm = decoder.layer_norm(weights, f"{name}.feed_forward.norm", config.norm_eps)
        return PreNormBlock(norm, attention, post_norm, decoder.read_gated(weights, layer, config.activation))
