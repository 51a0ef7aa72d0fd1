"""Gemma 3: four RMSNorms a block, QK-norm, sliding-window layers with a RoPE base of their own between global ones.

Source: Gemma Team 2025, arXiv 2503.19786; transformers' ``modeling_gemma3.py`` (the text part).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..config import MAX_CONTEXT, MAX_HEADS, MAX_LAYERS, MAX_VOCAB, MAX_WIDTH, Dimensions, Fields
from ..config.gguf import close_gguf, gguf_fields, gguf_sizes
from ..config.hf import close_hf, hf_context, hf_fields, hf_sliding
from ..config.rope import MAX_THETA, gguf_rope, hf_rope_section
from ..decoder import (
    attention_parts,
    declare_decoder,
    decoder_specs,
    gated_parts,
    offset_norm,
    qk_norm_parts,
    read_attention,
    read_gated,
    read_sandwich,
    sandwich_parts,
)
from ..errors import ConfigError
from ..layers import ACTIVATIONS, RMSNorm, Rope, SandwichBlock, Scratch
from ..model import Model as BaseModel
from ..weights import NameRules, Spec, Weights

GLOBAL_THETA = 1_000_000.0
LOCAL_THETA = 10_000.0  # a GGUF file does not tell it
PATTERN = 6  # every sixth layer is global; a GGUF file does not tell it either

_HARMLESS_OUTER = {
    "vision_config", "mm_tokens_per_image", "boi_token_index", "eoi_token_index", "image_token_index", "boi_token_id",
    "eoi_token_id", "image_token_id",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Config(Dimensions):
    """What a Gemma 3 model computes.

    Attributes:
        sliding: for every layer, whether it is a sliding-window layer (else global).
        window: positions that a sliding-window layer sees, the token itself included.
        rope: the rotation of global layers.
        local_rope: the rotation of sliding-window layers.
        query_scale: factor of the scores: ``query_pre_attn_scalar ** -0.5``.
        activation: of the gate.
        attention_bias: the four attention matrices have biases.
        final_soft_cap: logits become ``cap * tanh(logit / cap)``; 0 is none.
    """

    sliding: tuple[bool, ...]
    window: int
    rope: Rope
    local_rope: Rope
    query_scale: float
    activation: str = "gelu_tanh"
    attention_bias: bool = False
    final_soft_cap: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(self.sliding) and self.window < 1:
            raise ConfigError("sliding_window: expected at least 1 in a model with sliding-window layers")

    @classmethod
    def from_hf(cls, values: Mapping[str, Any], where: str = "config.json") -> Config:
        """From a ``config.json`` of type ``gemma3_text``, or ``gemma3`` with the text model in ``text_config``.

        Raises:
            ConfigError: it is malformed or asks for something else than this file computes.
        """
        fields = hf_fields(values, where, ("gemma3_text", "gemma3"))
        tied = fields.flag("tie_word_embeddings", True)
        if fields.raw("model_type") == "gemma3":  # with a vision tower, which is left out: see Model.rules
            text = fields.raw("text_config")
            close_hf(fields, _HARMLESS_OUTER)
            fields = hf_fields(text, f"{where}: text_config", ("gemma3_text",))
        n_layers = fields.integer("num_hidden_layers", 1, MAX_LAYERS)
        context_length = hf_context(fields, 131_072)
        head_dim = fields.integer("head_dim", 1, MAX_WIDTH, default=256)
        rope, local_rope = _hf_ropes(fields, head_dim, context_length)
        fields.fixed("use_bidirectional_attention", False)
        # transformers reads this key for Gemma 3 but does not apply it; no released model sets it.
        fields.fixed("attn_logit_softcapping")
        config = cls(
            vocab_size=fields.integer("vocab_size", 1, MAX_VOCAB, default=262_208),
            context_length=context_length,
            hidden_size=fields.integer("hidden_size", 1, MAX_WIDTH),
            intermediate_size=fields.integer("intermediate_size", 1, MAX_WIDTH),
            n_layers=n_layers,
            n_heads=fields.integer("num_attention_heads", 1, MAX_HEADS, default=8),
            n_kv_heads=fields.integer("num_key_value_heads", 1, MAX_HEADS, default=4),
            head_dim=head_dim,
            norm_eps=fields.number("rms_norm_eps", 0, 1, default=1e-6),
            tie_word_embeddings=fields.flag("tie_word_embeddings", tied),
            sliding=_hf_pattern(fields, n_layers),
            window=0 if fields.is_null("sliding_window") else fields.integer("sliding_window", 1, MAX_CONTEXT, 4096),
            rope=rope,
            local_rope=local_rope,
            query_scale=fields.number("query_pre_attn_scalar", 1e-6, MAX_WIDTH, default=256) ** -0.5,
            activation=fields.choice("hidden_activation", ACTIVATIONS, default="gelu_pytorch_tanh"),
            attention_bias=fields.flag("attention_bias", False),
            final_soft_cap=fields.number("final_logit_softcapping", 1e-6, 1e6)
            if fields.has("final_logit_softcapping")
            else 0.0,
        )
        close_hf(fields)
        return config

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> Config:
        """From a GGUF file's metadata; ConfigError if it is malformed or asks for something else."""
        fields = gguf_fields(metadata, "gemma3")
        sizes = gguf_sizes(fields, metadata)
        head_dim, n_layers = sizes["head_dim"], sizes["n_layers"]
        # The 27B model alone has another scale than its head_dim's; llama.cpp knows it by its number of layers too.
        scalar = sizes["hidden_size"] / sizes["n_heads"] if n_layers == 62 else head_dim
        config = cls(
            **sizes,
            sliding=_gguf_pattern(fields, n_layers),
            window=fields.integer("attention.sliding_window", 1, MAX_CONTEXT),
            rope=gguf_rope(fields, head_dim, sizes["context_length"], GLOBAL_THETA),
            local_rope=Rope(head_dim, fields.number("rope.freq_base_swa", 1, MAX_THETA, default=LOCAL_THETA)),
            query_scale=fields.number("attention.scale", 1e-6, 1e6, default=scalar**-0.5),
        )
        fields.fixed("attn_logit_softcapping")
        fields.fixed("final_logit_softcapping")
        close_gguf(fields)
        return config


class Model(BaseModel[Config]):
    """Gemma 3's text model; see :class:`pyml_nn.model.Model`."""

    rules = NameRules(
        hf_prefixes=("language_model.model.", "model.language_model.", "language_model.", "model."),
        ignored=(r"(model\.)?(vision_tower|multi_modal_projector)\..*",),
    )

    @staticmethod
    def specs(config: Config) -> dict[str, Spec]:
        """Every weight: internal name -> names in files, shape."""
        attention = attention_parts(config, config.attention_bias, config.attention_bias)
        return decoder_specs(config, sandwich_parts(config, [*attention, *qk_norm_parts(config)], gated_parts(config)))

    def declare(self, weights: Weights, scratch: Scratch) -> None:
        """Read the weights and declare the program."""
        config = self.config
        ropes = {True: ("rope.local", config.local_rope), False: ("rope.global", config.rope)}
        declare_decoder(
            weights, scratch, config, [ropes[sliding] for sliding in config.sliding], self._block, self._norm,
            embedding_scale=float(np.float32(config.hidden_size**0.5)), soft_cap=config.final_soft_cap,
        )  # fmt: skip

    def _block(self, weights: Weights, layer: int) -> SandwichBlock:
        config = self.config
        window = config.window if config.sliding[layer] else 0
        attention = read_attention(weights, layer, config, window=window, scale=config.query_scale, norm=self._norm)
        return read_sandwich(weights, layer, attention, read_gated(weights, layer, config.activation), self._norm)

    def _norm(self, weights: Weights, name: str) -> RMSNorm:
        return offset_norm(weights, name, self.config.norm_eps)


def _pattern(period: int, n_layers: int) -> tuple[bool, ...]:
    """Every ``period``-th layer global, the others sliding."""
    return tuple((layer + 1) % period != 0 for layer in range(n_layers))


def _gguf_pattern(fields: Fields, n_layers: int) -> tuple[bool, ...]:
    """Which layers slide: a flag for each layer, or every how many layers one does not."""
    key = "attention.sliding_window_pattern"
    flags = fields.raw(key)
    if not isinstance(flags, Collection) or isinstance(flags, str | bytes):
        return _pattern(fields.integer(key, 1, MAX_LAYERS, default=PATTERN), n_layers)
    if len(flags) != n_layers or not all(isinstance(flag, bool | np.bool_) for flag in flags):
        raise fields.error(key, f"expected a number, or {n_layers} flags, one a layer, found {len(flags)} values")
    return tuple(map(bool, flags))


def _hf_pattern(fields: Fields, n_layers: int) -> tuple[bool, ...]:
    """Which layers slide: ``layer_types``, or ``sliding_window_pattern`` as older files say."""
    period = fields.integer("_sliding_window_pattern", 1, MAX_LAYERS, default=PATTERN)
    period = fields.integer("sliding_window_pattern", 1, MAX_LAYERS, default=period)
    return hf_sliding(fields, n_layers, lambda layer: _pattern(period, n_layers)[layer])


def _hf_ropes(fields: Fields, head_dim: int, context_length: int) -> tuple[Rope, Rope]:
    """The rotations of global and of local layers: ``rope_parameters`` by layer type, or the keys of older files."""
    theta = fields.number("rope_theta", 1, MAX_THETA, default=GLOBAL_THETA)
    local_theta = fields.number("rope_local_base_freq", 1, MAX_THETA, default=LOCAL_THETA)
    rope, local_rope = Rope(head_dim, theta), Rope(head_dim, local_theta)
    by_type, scaling = fields.section("rope_parameters"), fields.section("rope_scaling")
    if by_type is not None:
        if (section := by_type.section("full_attention")) is not None:
            rope = hf_rope_section(section, head_dim, context_length, theta)
        if (section := by_type.section("sliding_attention")) is not None:
            local_rope = hf_rope_section(section, head_dim, context_length, local_theta)
        by_type.close()
    if scaling is not None:
        scaled = hf_rope_section(scaling, head_dim, context_length, rope.theta)
        if by_type is not None and scaled != rope:
            raise fields.error("rope_scaling", "says something else than rope_parameters")
        rope = scaled
    return rope, local_rope
