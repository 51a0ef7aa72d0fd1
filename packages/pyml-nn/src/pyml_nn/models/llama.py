"""The Llama family: Llama 2 and 3, Mistral (sliding window), SmolLM2.

RMSNorm before each branch, RoPE, grouped heads, a gated feed-forward; biases, a tied head and a head_dim of its own
where the configuration says so.

Source: Touvron et al. 2023, arXiv 2307.09288; Llama Team 2024, arXiv 2407.21783; Jiang et al. 2023, arXiv 2310.06825;
transformers' ``modeling_llama.py`` and ``modeling_mistral.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pyml_nn.attention import Attention
from pyml_nn.block import PreNormBlock
from pyml_nn.config import (
    HARMLESS_GGUF,
    HARMLESS_HF,
    MAX_CONTEXT,
    MAX_HEADS,
    MAX_LAYERS,
    MAX_VOCAB,
    MAX_WIDTH,
    Dimensions,
    gguf_fields,
    gguf_head_dim,
    gguf_vocab_size,
    hf_fields,
    hf_head_dim,
)
from pyml_nn.feed_forward import ACTIVATIONS, GatedFeedForward
from pyml_nn.linear import Embedding
from pyml_nn.model import Model as BaseModel
from pyml_nn.model import declare_head
from pyml_nn.norm import RMSNorm
from pyml_nn.rope import Rope, gguf_rope, hf_rope, with_factors
from pyml_nn.scratch import Scratch
from pyml_nn.weights import NameRules, Spec, Weights


@dataclass(frozen=True, kw_only=True)
class Config(Dimensions):
    """What a model of the Llama family computes.

    Attributes:
        rope: the rotation of every layer.
        activation: of the gate.
        window: a token sees so many positions, itself included; 0 is all.
        attention_bias: the four attention matrices have biases; None: where the weights have them (GGUF does not tell).
        mlp_bias: the three feed-forward matrices have biases; None as above.
    """

    rope: Rope
    activation: str = "silu"
    window: int = 0
    attention_bias: bool | None = False
    mlp_bias: bool | None = False

    @classmethod
    def from_hf(cls, values: Mapping[str, Any], where: str = "config.json") -> Config:
        """From a ``config.json``; ConfigError if it is malformed or asks for something else than this file computes."""
        fields = hf_fields(values, where, ("llama", "mistral"))
        window = 0
        if fields.raw("model_type") == "mistral" and not fields.is_null("sliding_window"):
            window = fields.integer("sliding_window", 1, MAX_CONTEXT, default=4096)
        hidden_size = fields.integer("hidden_size", 1, MAX_WIDTH)
        n_heads = fields.integer("num_attention_heads", 1, MAX_HEADS)
        head_dim = hf_head_dim(fields, hidden_size, n_heads)
        context_length = fields.integer("max_position_embeddings", 1, MAX_CONTEXT)
        fields.fixed("rope_interleaved", False)
        fields.fixed("qk_layer_norms", False)
        config = cls(
            vocab_size=fields.integer("vocab_size", 1, MAX_VOCAB),
            context_length=context_length,
            hidden_size=hidden_size,
            intermediate_size=fields.integer("intermediate_size", 1, MAX_WIDTH),
            n_layers=fields.integer("num_hidden_layers", 1, MAX_LAYERS),
            n_heads=n_heads,
            n_kv_heads=fields.integer("num_key_value_heads", 1, MAX_HEADS, default=n_heads),
            head_dim=head_dim,
            norm_eps=fields.number("rms_norm_eps", 0, 1, default=1e-6),
            tie_word_embeddings=fields.flag("tie_word_embeddings", False),
            rope=hf_rope(fields, head_dim, context_length, 10_000.0),
            activation=fields.choice("hidden_act", ACTIVATIONS, default="silu"),
            window=window,
            attention_bias=fields.flag("attention_bias", False),
            mlp_bias=fields.flag("mlp_bias", False),
        )
        fields.close(HARMLESS_HF)
        return config

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> Config:
        """From a GGUF file's metadata; ConfigError if it is malformed or asks for something else."""
        fields = gguf_fields(metadata, "llama")
        hidden_size = fields.integer("embedding_length", 1, MAX_WIDTH)
        n_heads = fields.integer("attention.head_count", 1, MAX_HEADS)
        head_dim = gguf_head_dim(fields, hidden_size, n_heads)
        config = cls(
            vocab_size=gguf_vocab_size(fields, metadata),
            context_length=fields.integer("context_length", 1, MAX_CONTEXT),
            hidden_size=hidden_size,
            intermediate_size=fields.integer("feed_forward_length", 1, MAX_WIDTH),
            n_layers=fields.integer("block_count", 1, MAX_LAYERS),
            n_heads=n_heads,
            n_kv_heads=fields.integer("attention.head_count_kv", 1, MAX_HEADS, default=n_heads),
            head_dim=head_dim,
            norm_eps=fields.number("attention.layer_norm_rms_epsilon", 0, 1),
            tie_word_embeddings=True,
            rope=gguf_rope(fields, head_dim, 10_000.0),
            window=fields.integer("attention.sliding_window", 0, MAX_CONTEXT, default=0),
            attention_bias=None,
            mlp_bias=None,
        )
        fields.close(HARMLESS_GGUF)
        return config


class Model(BaseModel[Config]):
    """A model of the Llama family; see :class:`pyml_nn.model.Model`."""

    rules = NameRules(ignored=(r"(model\.)?layers\.\d+\.self_attn\.rotary_emb\.inv_freq",))

    @staticmethod
    def specs(config: Config) -> dict[str, Spec]:
        """Every weight: internal name -> names in files, shape."""
        hidden, inner = config.hidden_size, config.intermediate_size
        q, kv = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
        tied = config.tie_word_embeddings
        specs = {
            "embedding.weight": Spec("embed_tokens.weight", "token_embd.weight", (config.vocab_size, hidden)),
            "rope.factors": Spec("", "rope_freqs.weight", (config.head_dim // 2,), optional=True),
            "final_norm.weight": Spec("norm.weight", "output_norm.weight", (hidden,)),
            "head.weight": Spec("lm_head.weight", "output.weight", (config.vocab_size, hidden), optional=tied),
        }
        for layer in range(config.n_layers):
            for name, hf, gguf, shape, bias in (
                ("attention.norm", "input_layernorm", "attn_norm", (hidden,), False),
                ("attention.q", "self_attn.q_proj", "attn_q", (q, hidden), config.attention_bias),
                ("attention.k", "self_attn.k_proj", "attn_k", (kv, hidden), config.attention_bias),
                ("attention.v", "self_attn.v_proj", "attn_v", (kv, hidden), config.attention_bias),
                ("attention.out", "self_attn.o_proj", "attn_output", (hidden, q), config.attention_bias),
                ("feed_forward.norm", "post_attention_layernorm", "ffn_norm", (hidden,), False),
                ("feed_forward.gate", "mlp.gate_proj", "ffn_gate", (inner, hidden), config.mlp_bias),
                ("feed_forward.up", "mlp.up_proj", "ffn_up", (inner, hidden), config.mlp_bias),
                ("feed_forward.down", "mlp.down_proj", "ffn_down", (hidden, inner), config.mlp_bias),
            ):
                ours, hf, gguf = f"layers.{layer}.{name}", f"layers.{layer}.{hf}", f"blk.{layer}.{gguf}"
                specs[f"{ours}.weight"] = Spec(f"{hf}.weight", f"{gguf}.weight", shape)
                if bias is not False:
                    specs[f"{ours}.bias"] = Spec(f"{hf}.bias", f"{gguf}.bias", shape[:1], optional=bias is None)
        return specs

    def declare(self, weights: Weights, scratch: Scratch) -> None:
        """Read the weights and declare the program."""
        config, program = self.config, scratch.program
        embedding = weights.matrix("embedding.weight")
        hidden = Embedding(embedding).declare(program, "embedding", scratch.buffer("hidden", config.hidden_size))
        rope = config.rope
        if weights.has("rope.factors"):
            rope = with_factors(rope, weights.array("rope.factors"))
        angles = rope.declare(program, "rope")
        for layer in range(config.n_layers):
            self._block(weights, layer).declare(scratch, layer, hidden, angles)
        head = weights.head("head.weight", embedding, config.tie_word_embeddings)
        declare_head(scratch, hidden, self._norm(weights, "final_norm"), head)

    def _block(self, weights: Weights, layer: int) -> PreNormBlock:
        config, name = self.config, f"layers.{layer}"
        q, k, v = (f"{name}.attention.{part}" for part in "qkv")
        rows = {q: half_split(config.n_heads, config.head_dim), k: half_split(config.n_kv_heads, config.head_dim)}
        return PreNormBlock(
            attention_norm=self._norm(weights, f"{name}.attention.norm"),
            attention=Attention(
                qkv=weights.linear(q, k, v, rows=rows if weights.gguf else None),
                out=weights.linear(f"{name}.attention.out"),
                n_heads=config.n_heads,
                scale=config.head_dim**-0.5,
                window=config.window,
            ),
            feed_forward_norm=self._norm(weights, f"{name}.feed_forward.norm"),
            feed_forward=GatedFeedForward(
                gate_up=weights.linear(f"{name}.feed_forward.gate", f"{name}.feed_forward.up"),
                activation=config.activation,
                down=weights.linear(f"{name}.feed_forward.down"),
            ),
        )

    def _norm(self, weights: Weights, name: str) -> RMSNorm:
        return RMSNorm(weights.array(f"{name}.weight"), self.config.norm_eps)


def half_split(n_heads: int, head_dim: int) -> npt.NDArray[np.intp]:
    """For every row of q or k, where a GGUF file of architecture ``llama`` has it: (n_heads * head_dim).

    Such files interleave the two halves of every head (element i beside element i + D/2) for llama.cpp's way of RoPE
    (``LlamaModel.permute`` of its ``convert_hf_to_gguf.py``); pyml rotates half against half.
    """
    rows = np.arange(n_heads * head_dim).reshape(n_heads, head_dim // 2, 2)
    return np.ascontiguousarray(rows.swapaxes(1, 2)).reshape(-1)
