"""Phi 3, 3.5 and 4: Llama with q, k and v in one matrix, gate and up in another, and LongRoPE.

Source: Microsoft 2024, arXiv 2404.14219; transformers' ``modeling_phi3.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from operator import itemgetter

from .. import decoder, parts
from ..config import MAX_CONTEXT, MAX_FACTOR, Fields, Key, Known, gguf, hf
from ..errors import ConfigError
from ..layers import Attention, PreNormBlock, Rope
from ..layers.rope import LongScaling
from ..weights import Spec, Weights

# Older files have other names for LongRoPE; elsewhere, "yarn" is another scaling.
_KINDS = {"default": "default", "longrope": "longrope", "su": "longrope", "yarn": "longrope"}
_HF_ORIGINAL = Key("original_max_position_embeddings", int, 1, MAX_CONTEXT, 4096)


def _original_context(fields: Fields, known: Known) -> int:
    long = isinstance(known["rope"].scaling, LongScaling)
    return int(_HF_ORIGINAL(fields, known) if long else known["context_length"])


@dataclass(frozen=True, kw_only=True)
class Config(decoder.Config):
    """Configuration of a Phi 3 model.

    Attributes:
        rope: the rotation of every layer. GGUF files have its factors among the weights: see ``magnitude``.
        original_context: context length of the pretraining; longer sequences are rotated with the long factors.
        magnitude: factor of the rotated vectors, if a GGUF file has LongRoPE's factors.
        window: number of positions that a token sees, itself included; 0: all.
    """

    HF = hf.Table(
        ("phi3",),
        {
            **hf.SIZES,
            "norm_eps": hf.eps(1e-5),
            "rope": hf.rope(kinds=_KINDS, partial=1.0, original_context=_HF_ORIGINAL),
            "original_context": _original_context,
            "window": hf.window(),
            "activation": hf.ACTIVATION,
        },
        fixed={"attention_bias": False},
    )
    GGUF = gguf.Table(
        "phi3",
        {
            **gguf.SIZES,
            "rope": gguf.rope(partial=True),
            "original_context": Key(
                "rope.scaling.original_context_length", int, 1, MAX_CONTEXT, itemgetter("context_length")
            ),
            "magnitude": Key("rope.scaling.attn_factor", float, 1e-6, MAX_FACTOR, 1),
            "window": gguf.WINDOW,
        },
    )

    original_context: int
    magnitude: float = 1.0
    window: int = 0

    @property
    def long_from(self) -> int | None:
        """See :attr:`pyml_nn.config.Dimensions.long_from`."""
        return self.original_context if self.original_context < self.context_length else None


class Model(decoder.Decoder[Config]):
    """A Phi 3 model; see :class:`pyml_nn.Model`."""

    @staticmethod
    def specs(config: Config) -> dict[str, Spec]:
        """Names and shapes of all weights."""
        hidden, q = config.hidden_size, config.n_heads * config.head_dim
        qkv = q + 2 * config.n_kv_heads * config.head_dim
        factors = {
            f"rope.{length}": Spec("", f"rope_factors_{length}.weight", (config.rope.dim // 2,), optional="factors")
            for length in ("short", "long")
        }
        attention = [
            parts.Part("attention.qkv", "self_attn.qkv_proj", "attn_qkv", (qkv, hidden)),
            parts.Part("attention.out", "self_attn.o_proj", "attn_output", (hidden, q)),
        ]
        return factors | parts.specs(config, parts.pre_norm(config, attention, parts.gate_up(config)))

    def ropes(self, weights: Weights) -> list[tuple[str, Rope]]:
        """The rotation, with the factors of a GGUF file that has them."""
        rope = self._with_factors(weights) if weights.gguf else self.config.rope
        return [("rope", rope)] * self.config.n_layers

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
            gguf.checked_factors(f"rope_factors_{name}.weight", weights.array(f"rope.{name}"))
            for name in ("short", "long")
        )
        return replace(rope, scaling=LongScaling(short, long, config.original_context, config.magnitude))

    def block(self, weights: Weights, layer: int) -> PreNormBlock:
        """Read one layer."""
        config, name = self.config, f"layers.{layer}"
        return PreNormBlock(
            attention_norm=self.norm(weights, f"{name}.attention.norm"),
            attention=Attention(
                qkv=weights.linear(f"{name}.attention.qkv"),
                out=weights.linear(f"{name}.attention.out"),
                n_heads=config.n_heads,
                scale=config.head_dim**-0.5,
                window=config.window,
            ),
            feed_forward_norm=self.norm(weights, f"{name}.feed_forward.norm"),
            feed_forward=decoder.read_gate_up(weights, layer, config.activation),
        )
