"""Phi 3, 3.5 and 4: Llama with q, k and v in one matrix, gate and up in another, and LongRoPE.

Source: Microsoft 2024, arXiv 2404.14219; transformers' ``modeling_phi3.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..config import MAX_CONTEXT, Dimensions
from ..config.gguf import close_gguf, gguf_fields, gguf_sizes
from ..config.hf import close_hf, hf_fields, hf_sizes
from ..config.rope import MAX_FACTOR, checked_factors, gguf_rope, hf_rope
from ..decoder import Part, declare_decoder, decoder_specs, norm_part, rms_norm
from ..errors import ConfigError
from ..layers import ACTIVATIONS, Attention, GatedFeedForward, PreNormBlock, RMSNorm, Scratch
from ..layers.rope import LongScaling, Rope
from ..model import Model as BaseModel
from ..weights import Spec, Weights
from .mistral import hf_window

ORIGINAL_CONTEXT = 4096  # of files that do not tell
# Older files call LongRoPE by other names, one of which is another scaling's elsewhere.
_KINDS = {"default": "default", "longrope": "longrope", "su": "longrope", "yarn": "longrope"}


@dataclass(frozen=True, kw_only=True)
class Config(Dimensions):
    """What a Phi 3 model computes.

    Attributes:
        rope: the rotation of every layer. GGUF files have its factors among the weights: see ``magnitude``.
        original_context: positions of the pretraining; longer sequences are rotated with the long factors.
        magnitude: factor of the rotated vectors where a GGUF file has LongRoPE's factors.
        window: a token sees so many positions, itself included; 0 is all.
        activation: of the gate.
    """

    rope: Rope
    original_context: int
    magnitude: float = 1.0
    window: int = 0
    activation: str = "silu"

    @property
    def long_from(self) -> int | None:
        """See :attr:`Dimensions.long_from`."""
        return self.original_context if self.original_context < self.context_length else None

    @classmethod
    def from_hf(cls, values: Mapping[str, Any], where: str = "config.json") -> Config:
        """From a ``config.json``; ConfigError if it is malformed or asks for something else than this file computes."""
        fields = hf_fields(values, where, ("phi3",))
        sizes = hf_sizes(fields, eps=1e-5)
        context_length = sizes["context_length"]
        original = fields.integer("original_max_position_embeddings", 1, MAX_CONTEXT, default=ORIGINAL_CONTEXT)
        rope = hf_rope(fields, sizes["head_dim"], context_length, kinds=_KINDS, partial=True, original_context=original)
        fields.fixed("attention_bias", False)
        config = cls(
            **sizes,
            rope=rope,
            original_context=original if isinstance(rope.scaling, LongScaling) else context_length,
            window=hf_window(fields),
            activation=fields.choice("hidden_act", ACTIVATIONS, default="silu"),
        )
        close_hf(fields)
        return config

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> Config:
        """From a GGUF file's metadata; ConfigError if it is malformed or asks for something else."""
        fields = gguf_fields(metadata, "phi3")
        sizes = gguf_sizes(fields, metadata)
        context_length = sizes["context_length"]
        config = cls(
            **sizes,
            rope=gguf_rope(fields, sizes["head_dim"], context_length, partial=True),
            original_context=fields.integer(
                "rope.scaling.original_context_length", 1, MAX_CONTEXT, default=context_length
            ),
            magnitude=fields.number("rope.scaling.attn_factor", 1e-6, MAX_FACTOR, default=1),
            window=fields.integer("attention.sliding_window", 0, MAX_CONTEXT, default=0),
        )
        close_gguf(fields)
        return config


class Model(BaseModel[Config]):
    """A Phi 3 model; see :class:`pyml_nn.model.Model`."""

    @staticmethod
    def specs(config: Config) -> dict[str, Spec]:
        """Every weight: internal name -> names in files, shape."""
        hidden, inner, q = config.hidden_size, config.intermediate_size, config.n_heads * config.head_dim
        qkv = q + 2 * config.n_kv_heads * config.head_dim
        factors = {
            f"rope.{length}": Spec("", f"rope_factors_{length}.weight", (config.rope.dim // 2,), optional="factors")
            for length in ("short", "long")
        }
        return factors | decoder_specs(
            config,
            [
                norm_part(config, "attention", "input_layernorm", "attn_norm"),
                Part("attention.qkv", "self_attn.qkv_proj", "attn_qkv", (qkv, hidden)),
                Part("attention.out", "self_attn.o_proj", "attn_output", (hidden, q)),
                norm_part(config, "feed_forward", "post_attention_layernorm", "ffn_norm"),
                Part("feed_forward.gate_up", "mlp.gate_up_proj", "ffn_up", (2 * inner, hidden)),
                Part("feed_forward.down", "mlp.down_proj", "ffn_down", (hidden, inner)),
            ],
        )

    def declare(self, weights: Weights, scratch: Scratch) -> None:
        """Read the weights and declare the program."""
        config, rope = self.config, self.config.rope
        if weights.gguf:
            rope = self._with_factors(weights)
        declare_decoder(weights, scratch, config, [("rope", rope)] * config.n_layers, self._block, self._norm)

    def _with_factors(self, weights: Weights) -> Rope:
        """The rotation with a GGUF file's own factors, which models of the short context lack."""
        config, rope = self.config, self.config.rope
        if not weights.has("rope.short"):
            if config.long_from is None:
                return rope
            raise ConfigError(
                f"rope_factors_short.weight: missing in a model of {config.context_length} positions that was "
                f"trained on {config.original_context}"
            )
        if rope.scaling is not None:
            raise ConfigError(
                "rope_factors_long.weight: the metadata's rope.scaling.type scales the frequencies as well"
            )
        short, long = (
            checked_factors(f"rope_factors_{name}.weight", weights.array(f"rope.{name}")) for name in ("short", "long")
        )
        return replace(rope, scaling=LongScaling(short, long, config.original_context, config.magnitude))

    def _block(self, weights: Weights, layer: int) -> PreNormBlock:
        config, name = self.config, f"layers.{layer}"
        return PreNormBlock(
            attention_norm=self._norm(weights, f"{name}.attention.norm"),
            attention=Attention(
                qkv=weights.linear(f"{name}.attention.qkv"),
                out=weights.linear(f"{name}.attention.out"),
                n_heads=config.n_heads,
                scale=config.head_dim**-0.5,
                window=config.window,
            ),
            feed_forward_norm=self._norm(weights, f"{name}.feed_forward.norm"),
            feed_forward=GatedFeedForward(
                gate_up=weights.linear(f"{name}.feed_forward.gate_up"),
                activation=config.activation,
                down=weights.linear(f"{name}.feed_forward.down"),
            ),
        )

    def _norm(self, weights: Weights, name: str) -> RMSNorm:
        return rms_norm(weights, name, self.config.norm_eps)
