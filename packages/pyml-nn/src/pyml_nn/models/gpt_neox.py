"""GPT-NeoX and Pythia: LayerNorms, biases, a part of each head rotated, parallel branches.

Source: Black et al. 2022, arXiv 2204.06745; Biderman et al. 2023, arXiv 2304.01373; transformers'
``modeling_gpt_neox.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

from .. import decoder, parts
from ..config import MAX_THETA, Fields, Key, Known, constant, gguf, hf
from ..errors import ConfigError
from ..layers import ACTIVATIONS, Attention, LayerNorm, ParallelBlock, PreNormBlock, Rope
from ..weights import NameRules, Spec, Weights


def _rope(fields: Fields, known: Known) -> Rope:
    """Read the rotation by transformers' present keys, or by ``rotary_pct`` and ``rotary_emb_base``."""
    share = fields.number("rotary_pct", 1e-3, 1, default=0.25)
    theta = fields.number("rotary_emb_base", 1, MAX_THETA, default=10_000.0)
    found: Rope = hf.rope(theta, partial=share)(fields, known)
    return found


@dataclass(frozen=True, kw_only=True)
class Config(decoder.Config):
    """Configuration of a GPT-NeoX model.

    Attributes:
        parallel: whether attention and feed-forward are parallel branches, else one follows the other.
        attention_bias: whether the matrices of attention have biases; None: if the weights have them (GGUF files do not
            say).
    """

    HF = hf.Table(
        ("gpt_neox",),
        {
            **hf.SIZES,
            "norm_eps": Key("layer_norm_eps", float, 0, 1, 1e-5),
            "rope": _rope,
            "activation": Key("hidden_act", ACTIVATIONS, default="gelu"),
            "parallel": Key("use_parallel_residual", bool, default=True),
            "attention_bias": Key("attention_bias", bool, default=True),
        },
    )
    GGUF = gguf.Table(
        "gptneox",
        {
            **gguf.SIZES,
            "norm_eps": gguf.eps("layer_norm_epsilon"),
            "rope": gguf.rope(partial=True),
            "activation": constant("gelu_erf"),
            "parallel": Key("use_parallel_residual", bool, default=True),
            "attention_bias": constant(None),
        },
    )

    parallel: bool
    attention_bias: bool | None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_kv_heads != self.n_heads:
            raise ConfigError(f"attention heads: expected {self.n_heads} key/value heads, found {self.n_kv_heads}")
        if self.n_heads * self.head_dim != self.hidden_size:
            raise ConfigError(f"hidden size: {self.hidden_size} does not divide into {self.n_heads} attention heads")


class Model(decoder.Decoder[Config]):
    """A GPT-NeoX model; see :class:`pyml_nn.Model`."""

    rules = NameRules(
        hf_prefixes=("gpt_neox.",),
        ignored=(r"(gpt_neox\.)?layers\.\d+\.attention\.(bias|masked_bias)",),  # of older files: masks
    )

    @staticmethod
    def specs(config: Config) -> dict[str, Spec]:
        """Names and shapes of all weights."""
        hidden, inner, bias = config.hidden_size, config.intermediate_size, config.attention_bias
        return parts.specs(
            config,
            [
                parts.norm(config, "attention", "input_layernorm", "attn_norm", bias=True),
                parts.Part("attention.qkv", "attention.query_key_value", "attn_qkv", (3 * hidden, hidden), bias),
                parts.Part("attention.out", "attention.dense", "attn_output", (hidden, hidden), bias),
                parts.norm(config, "feed_forward", "post_attention_layernorm", "ffn_norm", bias=True),
                parts.Part("feed_forward.up", "mlp.dense_h_to_4h", "ffn_up", (inner, hidden), True),
                parts.Part("feed_forward.down", "mlp.dense_4h_to_h", "ffn_down", (hidden, inner), True),
            ],
            embedding="embed_in",
            final_norm="final_layer_norm",
            norm_bias=True,
            head="embed_out",
        )

    def final_norm(self, weights: Weights) -> LayerNorm:
        """Read the norm before the head."""
        return decoder.layer_norm(weights, "final_norm", self.config.norm_eps)

    def block(self, weights: Weights, layer: int) -> ParallelBlock | PreNormBlock:
        """Read one layer."""
        config, name = self.config, f"layers.{layer}"
        attention_norm = decoder.layer_norm(weights, f"{name}.attention.norm", config.norm_eps)
        qkv = f"{name}.attention.qkv"
        rows = decoder.by_kind(config.n_heads, config.n_kv_heads, config.head_dim)
        attention = Attention(
            qkv=weights.linear(qkv, rows=None if weights.gguf else {qkv: rows}),
            out=weights.linear(f"{name}.attention.out"),
            n_heads=config.n_heads,
            scale=config.head_dim**-0.5,
        )
        norm = decoder.layer_norm(weights, f"{name}.feed_forward.norm", config.norm_eps)
        feed_forward = decoder.read_plain(weights, layer, config.activation)
        if config.parallel:
            return ParallelBlock(attention_norm, attention, norm, feed_forward)
        return PreNormBlock(attention_norm, attention, norm, feed_forward)
