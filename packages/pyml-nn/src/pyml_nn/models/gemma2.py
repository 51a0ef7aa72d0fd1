"""Gemma 2: four RMSNorms a block, capped scores and logits, every second layer with a sliding window.

Source: Gemma Team 2024, arXiv 2408.00118; transformers' ``modeling_gemma2.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .. import decoder, parts
from ..config import MAX_CONTEXT, MAX_WIDTH, Fields, Key, Known, Reader, gguf, hf
from ..layers import ACTIVATIONS, RMSNorm, SandwichBlock
from ..weights import Spec, Weights

WINDOW = 4096  # if the file does not say
SCORE_CAP, FINAL_CAP = 50.0, 30.0


def _slides(layer: int) -> bool:
    return layer % 2 == 0


def _hf_windows(fields: Fields, known: Known) -> tuple[int, ...]:
    sliding = hf.sliding(fields, known["n_layers"], _slides)
    window = fields.integer("sliding_window", 1, MAX_CONTEXT, default=WINDOW)
    fields.fixed("sliding_window_size", window)
    fields.raw("hidden_act")  # transformers uses hidden_activation; the published files have both
    return tuple(window if slides else 0 for slides in sliding)


def _gguf_windows(fields: Fields, known: Known) -> tuple[int, ...]:
    window = fields.integer("attention.sliding_window", 1, MAX_CONTEXT, default=WINDOW)
    return tuple(window if _slides(layer) else 0 for layer in range(known["n_layers"]))


def _hf_query_scale(fields: Fields, known: Known) -> float:
    return float(fields.number("query_pre_attn_scalar", 1e-6, MAX_WIDTH, default=256) ** -0.5)


def _gguf_query_scale(fields: Fields, known: Known) -> float:
    # Only the 27B model has another scale than its head_dim's; llama.cpp, too, recognises it by its number of layers.
    scalar = known["hidden_size"] / known["n_heads"] if known["n_layers"] == 46 else known["head_dim"]
    return float(scalar**-0.5)


def _hf_cap(key: str, default: float) -> Reader:
    """A soft cap; null: none."""
    return lambda fields, known: 0.0 if fields.is_null(key) else fields.number(key, 1e-6, 1e6, default=default)


@dataclass(frozen=True, kw_only=True)
class Config(decoder.Config):
    """Configuration of a Gemma 2 model.

    Attributes:
        windows: for each layer, the number of positions that a token sees, itself included; 0: all.
        query_scale: factor of the scores: ``query_pre_attn_scalar ** -0.5``.
        score_soft_cap: scores become ``cap * tanh(score / cap)``; 0: they are not capped.
        final_soft_cap: logits become ``cap * tanh(logit / cap)``; 0: they are not capped.
        attention_bias: whether the four attention matrices have biases.
    """

    HF = hf.Table(
        ("gemma2",),
        {
            **hf.SIZES,
            "tie_word_embeddings": Key("tie_word_embeddings", bool, default=True),
            "rope": hf.rope(),
            "windows": _hf_windows,
            "query_scale": _hf_query_scale,
            "score_soft_cap": _hf_cap("attn_logit_softcapping", SCORE_CAP),
            "final_soft_cap": _hf_cap("final_logit_softcapping", FINAL_CAP),
            "activation": Key("hidden_activation", ACTIVATIONS, default="gelu_pytorch_tanh"),
            "attention_bias": Key("attention_bias", bool, default=False),
        },
        fixed={"use_bidirectional_attention": False},
    )
    GGUF = gguf.Table(
        "gemma2",
        {
            **gguf.SIZES,
            "rope": gguf.rope(),
            "windows": _gguf_windows,
            "query_scale": _gguf_query_scale,
            "score_soft_cap": Key("attn_logit_softcapping", float, 1e-6, 1e6, SCORE_CAP),
            "final_soft_cap": Key("final_logit_softcapping", float, 1e-6, 1e6, FINAL_CAP),
        },
    )

    windows: tuple[int, ...]
    query_scale: float
    score_soft_cap: float = SCORE_CAP
    final_soft_cap: float = FINAL_CAP
    activation: str = "gelu_tanh"
    attention_bias: bool = False


class Model(decoder.Decoder[Config]):
    """A Gemma 2 model; see :class:`pyml_nn.Model`."""

    @staticmethod
    def specs(config: Config) -> dict[str, Spec]:
        """Names and shapes of all weights."""
        attention = parts.attention(config, config.attention_bias, config.attention_bias)
        return parts.specs(config, parts.sandwich(config, attention, parts.gated(config)))

    @property
    def embedding_scale(self) -> float:
        """Factor of the embeddings."""
        return float(np.float32(self.config.hidden_size**0.5))

    @property
    def logit_soft_cap(self) -> float:
        """Cap of the logits."""
        return self.config.final_soft_cap

    def norm(self, weights: Weights, name: str) -> RMSNorm:
        """Read one norm."""
        return decoder.offset_norm(weights, name, self.config.norm_eps)

    def block(self, weights: Weights, layer: int) -> SandwichBlock:
        """Read one layer."""
        config = self.config
        attention = decoder.read_attention(
            weights, layer, config,
            window=config.windows[layer], scale=config.query_scale, soft_cap=config.score_soft_cap,
        )  # fmt: skip
        return self.sandwich_block(weights, layer, attention, decoder.read_gated(weights, layer, config.activation))
