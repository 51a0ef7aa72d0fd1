"""OLMoE: Llama with a mixture of experts, and norms of all query heads and of all key heads together.

Source: Muennighoff et al. 2024, arXiv 2409.02060; transformers' ``modeling_olmoe.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

from pyml_core.ops.experts import MAX_EXPERTS

from .. import decoder, parts
from ..config import Key, constant, gguf, hf
from ..layers import PreNormBlock
from ..weights import Spec, Weights


@dataclass(frozen=True, kw_only=True)
class Config(decoder.MixtureConfig):
    """Configuration of an OLMoE model.

    Attributes:
        attention_bias: whether the four attention matrices have biases; None: if the weights have them (GGUF files do
            not say).
        normalize: whether the weights of the chosen experts are scaled to a sum of 1.
    """

    HF = hf.Table(
        ("olmoe",),
        {
            **hf.SIZES,
            "norm_eps": hf.eps(1e-5),
            "rope": hf.rope(),
            "activation": hf.ACTIVATION,
            "attention_bias": Key("attention_bias", bool, default=False),
            "n_experts": Key("num_experts", int, 1, MAX_EXPERTS, 64),
            "n_chosen": Key("num_experts_per_tok", int, 1, MAX_EXPERTS, 8),
            "normalize": Key("norm_topk_prob", bool, default=False),
        },
        fixed={"clip_qkv": None},
        harmless=("output_router_logits",),  # for training
    )
    GGUF = gguf.Table(
        "olmoe",
        {
            **gguf.SIZES,
            "rope": gguf.rope(),
            "attention_bias": constant(None),
            **gguf.EXPERTS,
            "normalize": constant(False),  # llama.cpp's graph of this architecture never does
        },
        experts=True,
        fixed={"expert_weights_norm": False},
    )

    attention_bias: bool | None
    normalize: bool


class Model(decoder.Decoder[Config]):
    """An OLMoE model; see :class:`pyml_nn.Model`."""

    @staticmethod
    def specs(config: Config) -> dict[str, Spec]:
        """Names and shapes of all weights."""
        attention = parts.attention(config, config.attention_bias, config.attention_bias)
        attention += parts.qk_norms(config, together=True)
        names = ("gate_proj", "up_proj", "down_proj")
        experts = parts.experts(config, config.n_experts, config.intermediate_size, "mlp", names)
        return parts.specs(config, parts.pre_norm(config, attention, experts))

    def block(self, weights: Weights, layer: int) -> PreNormBlock:
        """Read one layer."""
        config, name = self.config, f"layers.{layer}"
        return PreNormBlock(
            self.norm(weights, f"{name}.attention.norm"),
            decoder.read_attention(weights, layer, config, norm=self.norm),
            self.norm(weights, f"{name}.feed_forward.norm"),
            decoder.read_experts(
                weights, layer, config.n_experts, config.n_chosen, config.activation, normalize=config.normalize
            ),
        )
