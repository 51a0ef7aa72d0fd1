"""Falcon: attention and feed-forward side by side, one key/value head or few, LayerNorms with biases, RoPE.

The 7B model has one norm for both branches and one key/value head; the new decoder architecture (40B, 180B) a norm for
each and some heads; Falcon 2 11B that architecture with one norm.

Source: Almazrouei et al. 2023, arXiv 2311.16867; transformers' ``modeling_falcon.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..config import MAX_HEADS, MAX_LAYERS, MAX_VOCAB, MAX_WIDTH, Dimensions
from ..config.gguf import close_gguf, gguf_fields, gguf_sizes
from ..config.hf import close_hf, hf_context, hf_fields, hf_head_dim
from ..config.rope import gguf_rope, hf_rope
from ..decoder import Part, declare_decoder, decoder_specs, layer_norm, norm_part
from ..errors import ConfigError
from ..layers import ACTIVATIONS, Attention, FeedForward, LayerNorm, ParallelBlock, PreNormBlock, Rope, Scratch
from ..model import Model as BaseModel
from ..weights import NameRules, Spec, Weights


@dataclass(frozen=True, kw_only=True)
class Config(Dimensions):
    """What a Falcon model computes.

    Attributes:
        rope: the rotation of every layer.
        parallel: attention and feed-forward read the same residual stream; else one after the other.
        two_norms: each of two parallel branches has a norm; None: where the weights have them (GGUF does not tell).
        bias: matrices have biases; None as above.
        activation: between the two matrices of the feed-forward.
    """

    rope: Rope
    parallel: bool = True
    two_norms: bool | None = None
    bias: bool | None = None
    activation: str = "gelu_erf"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_heads * self.head_dim != self.hidden_size:
            raise ConfigError(f"hidden size: {self.hidden_size} does not divide into {self.n_heads} attention heads")

    @classmethod
    def from_hf(cls, values: Mapping[str, Any], where: str = "config.json") -> Config:
        """From a ``config.json``; ConfigError if it is malformed or asks for something else than this file computes."""
        fields = hf_fields(values, where, ("falcon",))
        fields.fixed("alibi", False)
        fields.fixed("apply_residual_connection_post_layernorm", False)
        hidden_size = fields.integer("hidden_size", 1, MAX_WIDTH)
        n_heads = fields.integer("num_attention_heads", 1, MAX_HEADS)
        new = fields.flag("new_decoder_architecture", False)
        parallel = fields.flag("parallel_attn", True)
        # The new architecture is always parallel, and alone has key/value heads of its own number, and two norms.
        n_norms = fields.integer("num_ln_in_parallel_attn", 1, 2 if new else 1, default=2 if new else 1)
        if new and not parallel:
            raise fields.error("parallel_attn", "expected true with new_decoder_architecture, found false")
        n_kv_heads = fields.integer("num_kv_heads", 1, MAX_HEADS, default=n_heads)
        if not new:
            n_kv_heads = 1 if fields.flag("multi_query", True) else n_heads
        fields.raw("multi_query")
        context_length = hf_context(fields, 2048)
        head_dim = hf_head_dim(fields, hidden_size, n_heads)
        config = cls(
            vocab_size=fields.integer("vocab_size", 1, MAX_VOCAB),
            context_length=context_length,
            hidden_size=hidden_size,
            intermediate_size=fields.integer("ffn_hidden_size", 1, MAX_WIDTH, default=4 * hidden_size),
            n_layers=fields.integer("num_hidden_layers", 1, MAX_LAYERS),
            n_heads=n_heads,
            n_kv_heads=n_kv_heads,
            head_dim=head_dim,
            norm_eps=fields.number("layer_norm_epsilon", 0, 1, default=1e-5),
            tie_word_embeddings=fields.flag("tie_word_embeddings", True),
            rope=hf_rope(fields, head_dim, context_length),
            parallel=parallel,
            two_norms=n_norms == 2,
            bias=fields.flag("bias", False),
            activation=fields.choice("activation", ACTIVATIONS, default="gelu"),
        )
        close_hf(fields)
        return config

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> Config:
        """From a GGUF file's metadata; ConfigError if it is malformed or asks for something else."""
        fields = gguf_fields(metadata, "falcon")
        sizes = gguf_sizes(fields, metadata, "layer_norm_epsilon")
        rope = gguf_rope(fields, sizes["head_dim"], sizes["context_length"])
        close_gguf(fields)
        return cls(**sizes, rope=rope)


class Model(BaseModel[Config]):
    """A Falcon model; see :class:`pyml_nn.model.Model`."""

    rules = NameRules(hf_prefixes=("transformer.",))

    @staticmethod
    def specs(config: Config) -> dict[str, Spec]:
        """Every weight: internal name -> names in files, shape."""
        hidden, inner, bias = config.hidden_size, config.intermediate_size, config.bias
        qkv = (config.n_heads + 2 * config.n_kv_heads) * config.head_dim
        if not config.parallel:
            norms = [
                norm_part(config, "attention", "input_layernorm", "attn_norm", bias=True),
                norm_part(config, "feed_forward", "post_attention_layernorm", "ffn_norm", bias=True),
            ]
        else:  # GGUF files call the attention's own norm the second
            name = "ln_mlp" if config.two_norms else "input_layernorm"
            norms = [norm_part(config, "feed_forward", name, "attn_norm", bias=True)]
            if config.two_norms is not False:
                optional = config.two_norms is None
                norms.append(norm_part(config, "attention", "ln_attn", "attn_norm_2", True, optional))
        return decoder_specs(
            config,
            [
                *norms,
                Part("attention.qkv", "self_attention.query_key_value", "attn_qkv", (qkv, hidden), bias),
                Part("attention.out", "self_attention.dense", "attn_output", (hidden, hidden), bias),
                Part("feed_forward.up", "mlp.dense_h_to_4h", "ffn_up", (inner, hidden), bias),
                Part("feed_forward.down", "mlp.dense_4h_to_h", "ffn_down", (hidden, inner), bias),
            ],
            embedding="word_embeddings",
            final_norm="ln_f",
            layers="h",
            norm_bias=True,
        )

    def declare(self, weights: Weights, scratch: Scratch) -> None:
        """Read the weights and declare the program."""
        config = self.config
        declare_decoder(weights, scratch, config, [("rope", config.rope)] * config.n_layers, self._block, self._norm)

    def _block(self, weights: Weights, layer: int) -> ParallelBlock | PreNormBlock:
        config, name = self.config, f"layers.{layer}"
        own_norm = weights.has(f"{name}.attention.norm.weight")
        attention_norm = self._norm(weights, f"{name}.attention.norm") if own_norm else None
        qkv = f"{name}.attention.qkv"
        attention = Attention(
            qkv=weights.linear(qkv, rows=None if weights.gguf else {qkv: by_kind(config)}),
            out=weights.linear(f"{name}.attention.out"),
            n_heads=config.n_heads,
            scale=config.head_dim**-0.5,
        )
        feed_forward_norm = self._norm(weights, f"{name}.feed_forward.norm")
        feed_forward = FeedForward(
            up=weights.linear(f"{name}.feed_forward.up"),
            activation=config.activation,
            down=weights.linear(f"{name}.feed_forward.down"),
        )
        if config.parallel or attention_norm is None:
            return ParallelBlock(attention_norm, attention, feed_forward_norm, feed_forward)
        return PreNormBlock(attention_norm, attention, feed_forward_norm, feed_forward)

    def _norm(self, weights: Weights, name: str) -> LayerNorm:
        return layer_norm(weights, name, self.config.norm_eps)


def by_kind(config: Config) -> npt.NDArray[np.intp]:
    """For every row of [q heads | k heads | v heads], where a checkpoint has it.

    There, the query heads of each key/value head are followed by this one's k and v. GGUF files have rows by kind.
    """
    group = config.n_heads // config.n_kv_heads
    heads = np.arange(config.n_kv_heads * (group + 2)).reshape(config.n_kv_heads, group + 2)
    order = np.concatenate([heads[:, :group].reshape(-1), heads[:, group], heads[:, group + 1]])
    return np.asarray((order[:, None] * config.head_dim + np.arange(config.head_dim)).reshape(-1), np.intp)
