"""Falcon: attention and feed-forward in parallel, one key/value head or few, LayerNorms with biases, RoPE.

The 7B model has one norm for both branches and one key/value head; the new decoder architecture (40B, 180B) has a norm
for each and several heads; Falcon 2 11B has that architecture with one norm.

Source: Almazrouei et al. 2023, arXiv 2311.16867; transformers' ``modeling_falcon.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from .. import decoder, parts
from ..config import MAX_HEADS, MAX_WIDTH, Fields, Key, Known, gguf, hf
from ..errors import ConfigError
from ..layers import ACTIVATIONS, Attention, LayerNorm, ParallelBlock, PreNormBlock
from ..weights import NameRules, Spec, Weights


def _new(fields: Fields) -> bool:
    return fields.flag("new_decoder_architecture", False)


def _parallel(fields: Fields, known: Known) -> bool:
    parallel = fields.flag("parallel_attn", True)
    if _new(fields) and not parallel:
        raise fields.error("parallel_attn", "expected true with new_decoder_architecture, found false")
    return parallel


def _two_norms(fields: Fields, known: Known) -> bool:
    """Only the new architecture has two norms."""
    n_norms = 2 if _new(fields) else 1
    return fields.integer("num_ln_in_parallel_attn", 1, n_norms, default=n_norms) == 2


def _n_kv_heads(fields: Fields, known: Known) -> int:
    """Only the new architecture reads ``num_kv_heads``; the older one has one head or as many as query heads."""
    n_heads: int = known["n_heads"]
    n_kv_heads = fields.integer("num_kv_heads", 1, MAX_HEADS, default=n_heads)
    if _new(fields):
        fields.raw("multi_query")
        return n_kv_heads
    return 1 if fields.flag("multi_query", True) else n_heads


@dataclass(frozen=True, kw_only=True)
class Config(decoder.Config):
    """Configuration of a Falcon model.

    Attributes:
        parallel: whether attention and feed-forward are parallel branches, else one follows the other.
        two_norms: whether each of two parallel branches has a norm; None: if the weights have them (GGUF files do not
            say).
        bias: whether matrices have biases; None as above.
    """

    HF = hf.Table(
        ("falcon",),
        {
            **hf.SIZES,
            "context_length": partial(hf.context, default=2048),
            "intermediate_size": Key("ffn_hidden_size", int, 1, MAX_WIDTH, lambda known: 4 * known["hidden_size"]),
            "n_kv_heads": _n_kv_heads,
            "norm_eps": Key("layer_norm_epsilon", float, 0, 1, 1e-5),
            "tie_word_embeddings": Key("tie_word_embeddings", bool, default=True),
            "rope": hf.rope(),
            "parallel": _parallel,
            "two_norms": _two_norms,
            "bias": Key("bias", bool, default=False),
            "activation": Key("activation", ACTIVATIONS, default="gelu"),
        },
        fixed={"alibi": False, "apply_residual_connection_post_layernorm": False},
    )
    GGUF = gguf.Table("falcon", {**gguf.SIZES, "norm_eps": gguf.eps("layer_norm_epsilon"), "rope": gguf.rope()})

    parallel: bool = True
    two_norms: bool | None = None
    bias: bool | None = None
    activation: str = "gelu_erf"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_heads * self.head_dim != self.hidden_size:
            raise ConfigError(f"hidden size: {self.hidden_size} does not divide into {self.n_heads} attention heads")


class Model(decoder.Decoder[Config]):
    """A Falcon model; see :class:`pyml_nn.Model`."""

    rules = NameRules(hf_prefixes=("transformer.",))

    @staticmethod
    def specs(config: Config) -> dict[str, Spec]:
        """Names and shapes of all weights."""
        hidden, inner, bias = config.hidden_size, config.intermediate_size, config.bias
        qkv = (config.n_heads + 2 * config.n_kv_heads) * config.head_dim
        if not config.parallel:
            norms = [
                parts.norm(config, "attention", "input_layernorm", "attn_norm", bias=True),
                parts.norm(config, "feed_forward", "post_attention_layernorm", "ffn_norm", bias=True),
            ]
        else:  # GGUF files call the attention's own norm the second one
            name = "ln_mlp" if config.two_norms else "input_layernorm"
            norms = [parts.norm(config, "feed_forward", name, "attn_norm", bias=True)]
            if config.two_norms is not False:
                optional = config.two_norms is None
                norms.append(parts.norm(config, "attention", "ln_attn", "attn_norm_2", True, optional))
        return parts.specs(
            config,
            [
                *norms,
                parts.Part("attention.qkv", "self_attention.query_key_value", "attn_qkv", (qkv, hidden), bias),
                parts.Part("attention.out", "self_attention.dense", "attn_output", (hidden, hidden), bias),
                parts.Part("feed_forward.up", "mlp.dense_h_to_4h", "ffn_up", (inner, hidden), bias),
                parts.Part("feed_forward.down", "mlp.dense_4h_to_h", "ffn_down", (hidden, inner), bias),
            ],
            embedding="word_embeddings",
            final_norm="ln_f",
            layers="h",
            norm_bias=True,
        )

    def final_norm(self, weights: Weights) -> LayerNorm:
        """Read the norm before the head."""
        return self._layer_norm(weights, "final_norm")

    def block(self, weights: Weights, layer: int) -> ParallelBlock | PreNormBlock:
        """Read one layer."""
        config, name = self.config, f"layers.{layer}"
        own_norm = weights.has(f"{name}.attention.norm.weight")
        attention_norm = self._layer_norm(weights, f"{name}.attention.norm") if own_norm else None
        qkv = f"{name}.attention.qkv"
        rows = decoder.by_kind(config.n_heads, config.n_kv_heads, config.head_dim)
        attention = Attention(
            qkv=weights.linear(qkv, rows=None if weights.gguf else {qkv: rows}),
            out=weights.linear(f"{name}.attention.out"),
            n_heads=config.n_heads,
            scale=config.head_dim**-0.5,
        )
        feed_forward_norm = self._layer_norm(weights, f"{name}.feed_forward.norm")
        feed_forward = decoder.read_plain(weights, layer, config.activation)
        if config.parallel or attention_norm is None:
            return ParallelBlock(attention_norm, attention, feed_forward_norm, feed_forward)
        return PreNormBlock(attention_norm, attention, feed_forward_norm, feed_forward)

    def _layer_norm(self, weights: Weights, name: str) -> LayerNorm:
        return decoder.layer_norm(weights, name, self.config.norm_eps)
