"""Qwen 3 with a mixture of experts as the feed-forward of its layers, or of some (30B-A3B, 235B-A22B, Coder).

Source: Qwen Team 2025, arXiv 2505.09388; transformers' ``modeling_qwen3_moe.py``.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from pyml_core.ops.experts import MAX_EXPERTS

from .. import decoder, parts
from ..config import MAX_CONTEXT, MAX_LAYERS, MAX_WIDTH, Fields, Key, Known, constant, gguf, hf
from ..layers import PreNormBlock
from ..weights import Spec, Weights


def _n_experts(fields: Fields, known: Known) -> int:
    """Read ``num_experts``; transformers also calls it ``num_local_experts``."""
    count = fields.integer("num_local_experts", 1, MAX_EXPERTS, default=128)
    return fields.integer("num_experts", 1, MAX_EXPERTS, default=count)


def _sparse(fields: Fields, known: Known) -> tuple[bool, ...]:
    """Read which layers have experts: each ``decoder_sparse_step``-th one that is not in ``mlp_only_layers``."""
    step = fields.integer("decoder_sparse_step", 1, MAX_LAYERS, default=1)
    dense = fields.raw("mlp_only_layers") or []
    n_layers = known["n_layers"]
    if not isinstance(dense, Collection) or not all(type(layer) is int and 0 <= layer < n_layers for layer in dense):
        raise fields.error("mlp_only_layers", f"expected a list of layers from 0 to {n_layers - 1}")
    return tuple((layer + 1) % step == 0 and layer not in dense for layer in range(n_layers))


def _window(fields: Fields, known: Known) -> int:
    """Read the window of all layers: ``sliding_window`` counts only with ``use_sliding_window``."""
    used = fields.flag("use_sliding_window", False)
    if not used or fields.is_null("sliding_window"):
        fields.raw("sliding_window")
        return 0
    return fields.integer("sliding_window", 1, MAX_CONTEXT, default=4096)


def _expert_size(fields: Fields, known: Known) -> int:
    """Read the width of an expert; files of older converters give ``feed_forward_length`` alone."""
    return fields.integer("expert_feed_forward_length", 1, MAX_WIDTH, default=known["intermediate_size"])


@dataclass(frozen=True, kw_only=True)
class Config(decoder.MixtureConfig):
    """Configuration of a Qwen 3 model with experts.

    Attributes:
        window: number of positions that a token sees, itself included; 0: all.
        attention_bias: whether the four attention matrices have biases; None: if the weights have them (GGUF files do
            not say).
        expert_size: see ``expert_width``; ``intermediate_size`` is that of layers without experts.
        sparse: for each layer, whether it has experts.
        normalize: whether the weights of the chosen experts are scaled to a sum of 1.
    """

    HF = hf.Table(
        ("qwen3_moe",),
        {
            **hf.SIZES,
            "rope": hf.rope(),
            "window": _window,
            "activation": hf.ACTIVATION,
            "attention_bias": Key("attention_bias", bool, default=False),
            "n_experts": _n_experts,
            "n_chosen": Key("num_experts_per_tok", int, 1, MAX_EXPERTS, 8),
            "expert_size": Key("moe_intermediate_size", int, 1, MAX_WIDTH, 768),
            "sparse": _sparse,
            "normalize": Key("norm_topk_prob", bool, default=False),
        },
        harmless=("max_window_layers", "output_router_logits"),  # the window is that of all layers; for training
    )
    GGUF = gguf.Table(
        "qwen3moe",
        {
            **gguf.SIZES,
            "rope": gguf.rope(),
            "window": constant(0),
            "attention_bias": constant(None),
            **gguf.EXPERTS,
            "expert_size": _expert_size,
            "sparse": lambda fields, known: (True,) * known["n_layers"],
            "normalize": constant(True),  # llama.cpp's graph of this architecture always does
        },
        experts=True,
        aliases=("qwen3vlmoe",),
        harmless=gguf.IMAGES,
    )

    window: int
    attention_bias: bool | None
    expert_size: int
    sparse: tuple[bool, ...]
    normalize: bool

    @property
    def expert_width(self) -> int:
        """See :attr:`pyml_nn.config.Dimensions.expert_width`."""
        return self.expert_size


class Model(decoder.Decoder[Config]):
    """A Qwen 3 model with experts; see :class:`pyml_nn.Model`."""

    @staticmethod
    def specs(config: Config) -> dict[str, Spec]:
        """Names and shapes of all weights."""
        attention = parts.attention(config, config.attention_bias, config.attention_bias)
        attention += parts.qk_norms(config)
        names = ("gate_proj", "up_proj", "down_proj")
        experts = parts.experts(config, config.n_experts, config.expert_size, "mlp", names)
        dense = parts.gated(config)
        return parts.specs(
            config, lambda layer: parts.pre_norm(config, attention, experts if config.sparse[layer] else dense)
        )

    def block(self, weights: Weights, layer: int) -> PreNormBlock:
        """Read one layer."""
        config, name = self.config, f"layers.{layer}"
        attention_norm = self.norm(weights, f"{name}.attention.norm")
        attention = decoder.read_attention(weights, layer, config, window=config.window, norm=self.norm)
        norm = self.norm(weights, f"{name}.feed_forward.norm")
        if not config.sparse[layer]:
            return PreNormBlock(attention_norm, attention, norm, decoder.read_gated(weights, layer, config.activation))
        experts = decoder.read_experts(
            weights, layer, config.n_experts, config.n_chosen, config.activation, normalize=config.normalize
        )
        return PreNormBlock(attention_norm, attention, norm, experts)
