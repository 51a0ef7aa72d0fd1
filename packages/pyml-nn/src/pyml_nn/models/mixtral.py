"""Mixtral: Mistral with a mixture of experts for a feed-forward. In GGUF files it is called ``llama``, with experts.

Source: Jiang et al. 2024, arXiv 2401.04088; transformers' ``modeling_mixtral.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyml_core.program import MAX_EXPERTS

from ..config import MAX_CONTEXT, Dimensions
from ..config.gguf import close_gguf, gguf_fields, gguf_sizes, layers_integer
from ..config.hf import close_hf, hf_fields, hf_sizes
from ..config.rope import gguf_rope, hf_rope
from ..decoder import Part, attention_parts, declare_decoder, decoder_specs, norm_part, read_attention, rms_norm
from ..errors import ConfigError
from ..layers import ACTIVATIONS, Expert, MixtureOfExperts, PreNormBlock, RMSNorm, Rope, Scratch
from ..model import Model as BaseModel
from ..weights import Spec, Weights
from .mistral import hf_window

_HARMLESS = ("output_router_logits", "router_jitter_noise")  # of the training
_THETA = 1_000_000.0


@dataclass(frozen=True, kw_only=True)
class Config(Dimensions):
    """What a Mixtral model computes.

    Attributes:
        rope: the rotation of every layer.
        n_experts: experts of every layer.
        n_chosen: those that every token is sent to.
        activation: of the gate.
        window: a token sees so many positions, itself included; 0 is all.
    """

    rope: Rope
    n_experts: int
    n_chosen: int
    activation: str = "silu"
    window: int = 0

    @property
    def experts_per_token(self) -> int:
        """See :attr:`Dimensions.experts_per_token`."""
        return self.n_chosen

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_chosen > self.n_experts:
            raise ConfigError(f"experts: {self.n_chosen} are chosen of {self.n_experts}")

    @classmethod
    def from_hf(cls, values: Mapping[str, Any], where: str = "config.json") -> Config:
        """From a ``config.json``; ConfigError if it is malformed or asks for something else than this file computes."""
        fields = hf_fields(values, where, ("mixtral",))
        sizes = hf_sizes(fields, eps=1e-5)
        config = cls(
            **sizes,
            rope=hf_rope(fields, sizes["head_dim"], sizes["context_length"], _THETA),
            n_experts=fields.integer("num_local_experts", 1, MAX_EXPERTS, default=8),
            n_chosen=fields.integer("num_experts_per_tok", 1, MAX_EXPERTS, default=2),
            activation=fields.choice("hidden_act", ACTIVATIONS, default="silu"),
            window=hf_window(fields),
        )
        close_hf(fields, _HARMLESS)
        return config

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> Config:
        """From a GGUF file's metadata; ConfigError if it is malformed or asks for something else."""
        fields = gguf_fields(metadata, "llama", experts=True)
        sizes = gguf_sizes(fields, metadata)
        config = cls(
            **sizes,
            rope=gguf_rope(fields, sizes["head_dim"], sizes["context_length"]),
            n_experts=fields.integer("expert_count", 1, MAX_EXPERTS),
            n_chosen=layers_integer(fields, sizes["n_layers"], "expert_used_count", MAX_EXPERTS),
            window=fields.integer("attention.sliding_window", 0, MAX_CONTEXT, default=0),
        )
        close_gguf(fields)
        return config


class Model(BaseModel[Config]):
    """A Mixtral model; see :class:`pyml_nn.model.Model`."""

    @staticmethod
    def specs(config: Config) -> dict[str, Spec]:
        """Every weight: internal name -> names in files, shape."""
        hidden, inner = config.hidden_size, config.intermediate_size
        router = (config.n_experts, hidden)
        experts = [
            Part(f"feed_forward.{e}.{name}", f"block_sparse_moe.experts.{e}.{hf}", gguf, shape, gguf_index=e)
            for e in range(config.n_experts)
            for name, hf, gguf, shape in (
                ("gate", "w1", "ffn_gate_exps", (inner, hidden)),
                ("up", "w3", "ffn_up_exps", (inner, hidden)),
                ("down", "w2", "ffn_down_exps", (hidden, inner)),
            )
        ]
        return decoder_specs(
            config,
            [
                norm_part(config, "attention", "input_layernorm", "attn_norm"),
                *attention_parts(config),
                norm_part(config, "feed_forward", "post_attention_layernorm", "ffn_norm"),
                Part("feed_forward.router", "block_sparse_moe.gate", "ffn_gate_inp", router, exact=True),
                *experts,
            ],
        )

    def declare(self, weights: Weights, scratch: Scratch) -> None:
        """Read the weights and declare the program."""
        config = self.config
        declare_decoder(weights, scratch, config, [("rope", config.rope)] * config.n_layers, self._block, self._norm)

    def _block(self, weights: Weights, layer: int) -> PreNormBlock:
        config, name = self.config, f"layers.{layer}"
        return PreNormBlock(
            attention_norm=self._norm(weights, f"{name}.attention.norm"),
            attention=read_attention(weights, layer, config, window=config.window, interleaved=weights.gguf),
            feed_forward_norm=self._norm(weights, f"{name}.feed_forward.norm"),
            feed_forward=MixtureOfExperts(
                router=weights.linear(f"{name}.feed_forward.router"),
                experts=tuple(self._expert(weights, f"{name}.feed_forward.{e}") for e in range(config.n_experts)),
                n_chosen=config.n_chosen,
                activation=config.activation,
            ),
        )

    def _expert(self, weights: Weights, name: str) -> Expert:
        gate, up, down = (weights.matrix(f"{name}.{part}.weight") for part in ("gate", "up", "down"))
        return Expert(gate, up, down)

    def _norm(self, weights: Weights, name: str) -> RMSNorm:
        return rms_norm(weights, name, self.config.norm_eps)
