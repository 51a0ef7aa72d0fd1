"""Mixtral: Mistral with a mixture of experts as the feed-forward. GGUF files call it ``llama``, with experts.

Source: Jiang et al. 2024, arXiv 2401.04088; transformers' ``modeling_mixtral.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

from pyml_core.ops.experts import MAX_EXPERTS

from .. import decoder, parts
from ..config import Key, gguf, hf
from ..layers import PreNormBlock
from ..weights import Spec, Weights


@dataclass(frozen=True, kw_only=True)
class Config(decoder.MixtureConfig):
    """Configuration of a Mixtral model.

    Attributes:
        window: number of positions that a token sees, itself included; 0: all.
    """

    HF = hf.Table(
        ("mixtral",),
        {
            **hf.SIZES,
            "norm_eps": hf.eps(1e-5),
            "rope": hf.rope(1_000_000.0),
            "n_experts": Key("num_local_experts", int, 1, MAX_EXPERTS, 8),
            "n_chosen": Key("num_experts_per_tok", int, 1, MAX_EXPERTS, 2),
            "activation": hf.ACTIVATION,
            "window": hf.window(),
        },
        harmless=("output_router_logits", "router_jitter_noise"),  # for training
    )
    GGUF = gguf.Table(
        "llama",
        {
            **gguf.SIZES,
            "rope": gguf.rope(),
            **gguf.EXPERTS,
            "window": gguf.WINDOW,
        },
        experts=True,
    )

    window: int = 0


class Model(decoder.Decoder[Config]):
    """A Mixtral model; see :class:`pyml_nn.Model`."""

    @staticmethod
    def specs(config: Config) -> dict[str, Spec]:
        """Names and shapes of all weights."""
        names = ("w1", "w3", "w2")
        feed_forward = parts.experts(config, config.n_experts, config.intermediate_size, "block_sparse_moe", names)
        return parts.specs(config, parts.pre_norm(config, parts.attention(config), feed_forward))

    def block(self, weights: Weights, layer: int) -> PreNormBlock:
        """Read one layer."""
        config, name = self.config, f"layers.{layer}"
        return PreNormBlock(
            self.norm(weights, f"{name}.attention.norm"),
            decoder.read_attention(weights, layer, config, window=config.window, interleaved=weights.gguf),
            self.norm(weights, f"{name}.feed_forward.norm"),
            decoder.read_experts(weights, layer, config.n_experts, config.n_chosen, config.activation),
        )
