"""Gemma 3: four RMSNorms a block, QK-norm, sliding-window layers with a RoPE base of their own between global ones.

Source: Gemma Team 2025, arXiv 2503.19786; transformers' ``modeling_gemma3.py`` (the text part).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyml_nn.attention import Attention
from pyml_nn.block import SandwichBlock
from pyml_nn.config import (
    HARMLESS_GGUF,
    HARMLESS_HF,
    MAX_CONTEXT,
    MAX_HEADS,
    MAX_LAYERS,
    MAX_VOCAB,
    MAX_WIDTH,
    ConfigError,
    Dimensions,
    Fields,
    gguf_fields,
    gguf_head_dim,
    gguf_vocab_size,
    hf_fields,
)
from pyml_nn.feed_forward import ACTIVATIONS, GatedFeedForward
from pyml_nn.linear import Embedding
from pyml_nn.model import Model as BaseModel
from pyml_nn.model import declare_head
from pyml_nn.norm import RMSNorm
from pyml_nn.rope import MAX_THETA, Rope, gguf_rope, hf_rope_section
from pyml_nn.scratch import Scratch
from pyml_nn.weights import NameRules, Spec, Weights

GLOBAL_THETA = 1_000_000.0
LOCAL_THETA = 10_000.0  # a GGUF file does not tell it
PATTERN = 6  # every sixth layer is global; a GGUF file does not tell it either

_LAYER_TYPES = {"sliding_attention": True, "full_attention": False}
_HARMLESS_OUTER = HARMLESS_HF | {
    "vision_config", "mm_tokens_per_image", "boi_token_index", "eoi_token_index", "image_token_index", "boi_token_id",
    "eoi_token_id", "image_token_id", "tie_word_embeddings",
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
        if fields.raw("model_type") == "gemma3":
            text = fields.raw("text_config")
            fields.close(_HARMLESS_OUTER)
            fields = hf_fields(text, f"{where}: text_config", ("gemma3_text",))
        n_layers = fields.integer("num_hidden_layers", 1, MAX_LAYERS)
        context_length = fields.integer("max_position_embeddings", 1, MAX_CONTEXT, default=131_072)
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
            tie_word_embeddings=fields.flag("tie_word_embeddings", True),
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
        fields.close(HARMLESS_HF)
        return config

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> Config:
        """From a GGUF file's metadata; ConfigError if it is malformed or asks for something else."""
        fields = gguf_fields(metadata, "gemma3")
        n_layers = fields.integer("block_count", 1, MAX_LAYERS)
        hidden_size = fields.integer("embedding_length", 1, MAX_WIDTH)
        n_heads = fields.integer("attention.head_count", 1, MAX_HEADS)
        head_dim = gguf_head_dim(fields, hidden_size, n_heads)
        # The 27B model alone has another scale than its head_dim's; llama.cpp knows it by its number of layers too.
        scalar = hidden_size / n_heads if n_layers == 62 else head_dim
        pattern = fields.integer("attention.sliding_window_pattern", 1, MAX_LAYERS, default=PATTERN)
        context_length = fields.integer("context_length", 1, MAX_CONTEXT)
        config = cls(
            vocab_size=gguf_vocab_size(fields, metadata),
            context_length=context_length,
            hidden_size=hidden_size,
            intermediate_size=fields.integer("feed_forward_length", 1, MAX_WIDTH),
            n_layers=n_layers,
            n_heads=n_heads,
            n_kv_heads=fields.integer("attention.head_count_kv", 1, MAX_HEADS, default=n_heads),
            head_dim=head_dim,
            norm_eps=fields.number("attention.layer_norm_rms_epsilon", 0, 1),
            tie_word_embeddings=True,
            sliding=_pattern(pattern, n_layers),
            window=fields.integer("attention.sliding_window", 1, MAX_CONTEXT),
            rope=gguf_rope(fields, head_dim, context_length, GLOBAL_THETA),
            local_rope=Rope(head_dim, fields.number("rope.freq_base_swa", 1, MAX_THETA, default=LOCAL_THETA)),
            query_scale=fields.number("attention.scale", 1e-6, 1e6, default=scalar**-0.5),
        )
        fields.fixed("attn_logit_softcapping")
        fields.fixed("final_logit_softcapping")
        fields.close(HARMLESS_GGUF)
        return config


class Model(BaseModel[Config]):
    """Gemma 3's text model; see :class:`pyml_nn.model.Model`."""

    rules = NameRules(
        hf_prefixes=("language_model.model.", "model.language_model.", "language_model.", "model."),
        ignored=(r"(model\.)?(vision_tower|multi_modal_projector)\..*", r".*\.rotary_emb(_local)?\.inv_freq"),
    )

    @staticmethod
    def specs(config: Config) -> dict[str, Spec]:
        """Every weight: internal name -> names in files, shape."""
        hidden, inner, head_dim = config.hidden_size, config.intermediate_size, config.head_dim
        q, kv = config.n_heads * head_dim, config.n_kv_heads * head_dim
        tied = config.tie_word_embeddings
        specs = {
            "embedding.weight": Spec("embed_tokens.weight", "token_embd.weight", (config.vocab_size, hidden)),
            "final_norm.weight": Spec("norm.weight", "output_norm.weight", (hidden,)),
            "head.weight": Spec("lm_head.weight", "output.weight", (config.vocab_size, hidden), optional=tied),
        }
        for layer in range(config.n_layers):
            for name, hf, gguf, shape in (
                ("attention.norm", "input_layernorm", "attn_norm", (hidden,)),
                ("attention.q", "self_attn.q_proj", "attn_q", (q, hidden)),
                ("attention.k", "self_attn.k_proj", "attn_k", (kv, hidden)),
                ("attention.v", "self_attn.v_proj", "attn_v", (kv, hidden)),
                ("attention.q_norm", "self_attn.q_norm", "attn_q_norm", (head_dim,)),
                ("attention.k_norm", "self_attn.k_norm", "attn_k_norm", (head_dim,)),
                ("attention.out", "self_attn.o_proj", "attn_output", (hidden, q)),
                ("attention.post_norm", "post_attention_layernorm", "post_attention_norm", (hidden,)),
                ("feed_forward.norm", "pre_feedforward_layernorm", "ffn_norm", (hidden,)),
                ("feed_forward.gate", "mlp.gate_proj", "ffn_gate", (inner, hidden)),
                ("feed_forward.up", "mlp.up_proj", "ffn_up", (inner, hidden)),
                ("feed_forward.down", "mlp.down_proj", "ffn_down", (hidden, inner)),
                ("feed_forward.post_norm", "post_feedforward_layernorm", "post_ffw_norm", (hidden,)),
            ):
                ours, hf, gguf = f"layers.{layer}.{name}", f"layers.{layer}.{hf}", f"blk.{layer}.{gguf}"
                specs[f"{ours}.weight"] = Spec(f"{hf}.weight", f"{gguf}.weight", shape)
                if config.attention_bias and name.startswith("attention.") and len(shape) == 2:
                    specs[f"{ours}.bias"] = Spec(f"{hf}.bias", f"{gguf}.bias", shape[:1])
        return specs

    def declare(self, weights: Weights, scratch: Scratch) -> None:
        """Read the weights and declare the program."""
        config, program = self.config, scratch.program
        table = weights.matrix("embedding.weight")
        embedding = Embedding(table, scale=float(np.float32(config.hidden_size**0.5)))
        hidden = embedding.declare(program, "embedding", scratch.buffer("hidden", config.hidden_size))
        angles = {}
        if any(config.sliding):
            angles[True] = config.local_rope.declare(program, "rope.local")
        if not all(config.sliding):
            angles[False] = config.rope.declare(program, "rope.global")
        for layer, sliding in enumerate(config.sliding):
            self._block(weights, layer).declare(scratch, layer, hidden, angles[sliding])
        head = weights.head("head.weight", table, config.tie_word_embeddings)
        declare_head(scratch, hidden, self._norm(weights, "final_norm"), head, config.final_soft_cap)

    def _block(self, weights: Weights, layer: int) -> SandwichBlock:
        config, attention, feed_forward = self.config, f"layers.{layer}.attention", f"layers.{layer}.feed_forward"
        return SandwichBlock(
            attention_norm=self._norm(weights, f"{attention}.norm"),
            attention=Attention(
                qkv=weights.linear(f"{attention}.q", f"{attention}.k", f"{attention}.v"),
                out=weights.linear(f"{attention}.out"),
                n_heads=config.n_heads,
                scale=config.query_scale,
                window=config.window if config.sliding[layer] else 0,
                q_norm=self._norm(weights, f"{attention}.q_norm"),
                k_norm=self._norm(weights, f"{attention}.k_norm"),
            ),
            attention_post_norm=self._norm(weights, f"{attention}.post_norm"),
            feed_forward_norm=self._norm(weights, f"{feed_forward}.norm"),
            feed_forward=GatedFeedForward(
                gate_up=weights.linear(f"{feed_forward}.gate", f"{feed_forward}.up"),
                activation=config.activation,
                down=weights.linear(f"{feed_forward}.down"),
            ),
            feed_forward_post_norm=self._norm(weights, f"{feed_forward}.post_norm"),
        )

    def _norm(self, weights: Weights, name: str) -> RMSNorm:
        weight = weights.array(f"{name}.weight")
        # Checkpoints hold the weight less 1; GGUF files have the 1 added already.
        return RMSNorm(weight if weights.gguf else weight + np.float32(1), self.config.norm_eps)


def _pattern(period: int, n_layers: int) -> tuple[bool, ...]:
    """Every ``period``-th layer global, the others sliding."""
    return tuple((layer + 1) % period != 0 for layer in range(n_layers))


def _hf_pattern(fields: Fields, n_layers: int) -> tuple[bool, ...]:
    """Which layers slide: ``layer_types``, or ``sliding_window_pattern`` as older files say."""
    period = fields.integer("_sliding_window_pattern", 1, MAX_LAYERS, default=PATTERN)
    period = fields.integer("sliding_window_pattern", 1, MAX_LAYERS, default=period)
    types = fields.raw("layer_types")
    if types is None:
        return _pattern(period, n_layers)
    if not isinstance(types, list) or len(types) != n_layers or not all(t in _LAYER_TYPES for t in map(str, types)):
        raise fields.error("layer_types", f"expected a list of {n_layers} of {', '.join(_LAYER_TYPES)}")
    return tuple(_LAYER_TYPES[kind] for kind in types)


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
