"""Llama 1 to 3 and models with its architecture (SmolLM2; Mistral in GGUF files, which call it ``llama``).

RMSNorm before each branch, RoPE, grouped heads, a gated feed-forward; biases, a tied head and a head_dim of its own
where the configuration says so.

Source: Touvron et al. 2023, arXiv 2307.09288; Llama Team 2024, arXiv 2407.21783; transformers' ``modeling_llama.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

from .. import decoder, parts
from ..config import Fields, Key, Known, constant, gguf, hf
from ..layers import PreNormBlock, Rope
from ..weights import Spec, Weights


def _no_window(fields: Fields, known: Known) -> int:
    if any(hf.sliding(fields, known["n_layers"], lambda layer: False)):
        raise fields.error("layer_types", "expected no sliding_attention in a Llama model")
    return 0


@dataclass(frozen=True, kw_only=True)
class Config(decoder.Config):
    """Configuration of a Llama model.

    Attributes:
        window: number of positions that a token sees, itself included; 0: all.
        attention_bias: whether the four attention matrices have biases; None: if the weights have them (GGUF files do
            not say).
        mlp_bias: whether the three feed-forward matrices have biases; None as above.
    """

    HF = hf.Table(
        ("llama",),
        {
            **hf.SIZES,
            "rope": hf.rope(),
            "activation": hf.ACTIVATION,
            "window": _no_window,
            "attention_bias": Key("attention_bias", bool, default=False),
            "mlp_bias": Key("mlp_bias", bool, default=False),
        },
        fixed={"rope_interleaved": False, "qk_layer_norms": False},
    )
    GGUF = gguf.Table(
        "llama",
        {
            **gguf.SIZES,
            "rope": gguf.rope(),
            "window": gguf.WINDOW,
            "attention_bias": constant(None),
            "mlp_bias": constant(None),
        },
    )

    window: int = 0
    attention_bias: bool | None = False
    mlp_bias: bool | None = False

    def window_of(self, layer: int) -> int:
        """The window of a layer; 0: all positions."""
        return self.window


class Model(decoder.Decoder[Config]):
    """A Llama model; see :class:`pyml_nn.Model`."""

    @staticmethod
    def specs(config: Config) -> dict[str, Spec]:
        """Names and shapes of all weights."""
        attention = parts.attention(config, config.attention_bias, config.attention_bias)
        return parts.rope_factors(config.rope.dim) | parts.specs(
            config, parts.pre_norm(config, attention, parts.gated(config, config.mlp_bias))
        )

    def ropes(self, weights: Weights) -> list[tuple[str, Rope]]:
        """The rotation, with the factors of a GGUF file that has them."""
        return [("rope", decoder.read_rope(weights, self.config.rope))] * self.config.n_layers

    def block(self, weights: Weights, layer: int) -> PreNormBlock:
        """Read one layer."""
        config, name = self.config, f"layers.{layer}"
        window = config.window_of(layer)
        return PreNormBlock(
            self.norm(weights, f"{name}.attention.norm"),
            decoder.read_attention(weights, layer, config, window=window, interleaved=weights.gguf),
            self.norm(weights, f"{name}.feed_forward.norm"),
            decoder.read_gated(weights, layer, config.activation),
        )
