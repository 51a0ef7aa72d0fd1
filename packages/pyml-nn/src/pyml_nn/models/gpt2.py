"""GPT-2: learned positions, LayerNorm before each branch, GELU, biases everywhere, the head tied to the embedding.

Source: Radford et al. 2019; transformers' ``modeling_gpt2.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

from .. import decoder, model, parts
from ..config import (
    MAX_CONTEXT,
    MAX_HEADS,
    MAX_LAYERS,
    MAX_VOCAB,
    MAX_WIDTH,
    Dimensions,
    Fields,
    Key,
    Known,
    gguf,
    hf,
)
from ..errors import ConfigError
from ..layers import ACTIVATIONS, Attention, Embedding, FeedForward, LayerNorm, PreNormBlock, Scratch, declare_head
from ..weights import NameRules, Spec, Weights


def _head_dim(fields: Fields, known: Known) -> int:
    return int(known["hidden_size"] // known["n_heads"])


def _gguf_n_kv_heads(fields: Fields, known: Known) -> int:
    found = gguf.SIZES["n_kv_heads"](fields, known)
    if found != known["n_heads"]:
        raise fields.error(
            "attention.head_count_kv", f"expected {known['n_heads']}, as many as query heads, found {found}"
        )
    return int(found)


@dataclass(frozen=True, kw_only=True)
class Config(Dimensions):
    """Configuration of a GPT-2 model.

    Attributes:
        activation: activation of the feed-forward.
        scale_attention: whether scores are divided by the square root of head_dim.
        scale_by_layer: whether scores of layer i are divided by i + 1 as well.
    """

    HF = hf.Table(
        ("gpt2",),
        {
            "vocab_size": Key("vocab_size", int, 1, MAX_VOCAB),
            "context_length": Key("n_positions", int, 1, MAX_CONTEXT),
            "hidden_size": Key("n_embd", int, 1, MAX_WIDTH),
            "intermediate_size": Key("n_inner", int, 1, MAX_WIDTH, lambda known: 4 * known["hidden_size"]),
            "n_layers": Key("n_layer", int, 1, MAX_LAYERS),
            "n_heads": Key("n_head", int, 1, MAX_HEADS),
            "n_kv_heads": lambda fields, known: known["n_heads"],
            "head_dim": _head_dim,
            "norm_eps": Key("layer_norm_epsilon", float, 0, 1, 1e-5),
            "tie_word_embeddings": Key("tie_word_embeddings", bool, default=True),
            "activation": Key("activation_function", ACTIVATIONS, default="gelu_new"),
            "scale_attention": Key("scale_attn_weights", bool, default=True),
            "scale_by_layer": Key("scale_attn_by_inverse_layer_idx", bool, default=False),
        },
        harmless={
            "n_ctx", "summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels",
            "summary_first_dropout", "reorder_and_upcast_attn",
        },
    )  # fmt: skip
    GGUF = gguf.Table(
        "gpt2",
        {
            **gguf.SIZES,
            "n_kv_heads": _gguf_n_kv_heads,
            "head_dim": _head_dim,
            "norm_eps": gguf.eps("layer_norm_epsilon"),
        },
    )

    activation: str = "gelu_tanh"
    scale_attention: bool = True
    scale_by_layer: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_heads * self.head_dim != self.hidden_size:
            raise ConfigError(f"hidden size: {self.hidden_size} does not divide into {self.n_heads} attention heads")


class Model(model.Model[Config]):
    """GPT-2; see :class:`pyml_nn.Model`."""

    # attn.bias and attn.masked_bias are the causal mask, which old checkpoints contain.
    rules = NameRules(hf_prefixes=("transformer.",), ignored=(r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias",))

    @staticmethod
    def specs(config: Config) -> dict[str, Spec]:
        """Names and shapes of all weights."""
        hidden, inner = config.hidden_size, config.intermediate_size
        positions = Spec("wpe.weight", "position_embd.weight", (config.context_length, hidden))
        return {"positions": positions} | parts.specs(
            config,
            [
                parts.norm(config, "attention", "ln_1", "attn_norm", bias=True),
                _conv1d("attention.qkv", "attn.c_attn", "attn_qkv", (3 * hidden, hidden)),
                _conv1d("attention.out", "attn.c_proj", "attn_output", (hidden, hidden)),
                parts.norm(config, "feed_forward", "ln_2", "ffn_norm", bias=True),
                _conv1d("feed_forward.up", "mlp.c_fc", "ffn_up", (inner, hidden)),
                _conv1d("feed_forward.down", "mlp.c_proj", "ffn_down", (hidden, inner)),
            ],
            embedding="wte",
            final_norm="ln_f",
            layers="h",
            norm_bias=True,
        )

    def declare(self, weights: Weights, scratch: Scratch) -> None:
        """Read the weights and declare the program."""
        config, program = self.config, scratch.program
        embedding = weights.matrix("embedding.weight")
        hidden = Embedding(embedding).declare(program, "embedding", scratch.buffer("hidden", config.hidden_size))
        program.add_positions("embedding.positions", weights.array("positions"), hidden)
        for layer in range(config.n_layers):
            self._block(weights, layer).declare(scratch, layer, hidden)
        head = weights.head("head.weight", embedding, config.tie_word_embeddings)
        declare_head(scratch, hidden, self._norm(weights, "final_norm"), head)

    def _block(self, weights: Weights, layer: int) -> PreNormBlock:
        config, name = self.config, f"layers.{layer}"
        scale = config.head_dim**-0.5 if config.scale_attention else 1.0
        return PreNormBlock(
            attention_norm=self._norm(weights, f"{name}.attention.norm"),
            attention=Attention(
                qkv=weights.linear(f"{name}.attention.qkv"),
                out=weights.linear(f"{name}.attention.out"),
                n_heads=config.n_heads,
                scale=scale / (layer + 1) if config.scale_by_layer else scale,
            ),
            feed_forward_norm=self._norm(weights, f"{name}.feed_forward.norm"),
            feed_forward=FeedForward(
                up=weights.linear(f"{name}.feed_forward.up"),
                activation=config.activation,
                down=weights.linear(f"{name}.feed_forward.down"),
            ),
        )

    def _norm(self, weights: Weights, name: str) -> LayerNorm:
        return decoder.layer_norm(weights, name, self.config.norm_eps)


def _conv1d(name: str, hf: str, gguf: str, shape: tuple[int, int]) -> parts.Part:
    return parts.Part(name, hf, gguf, shape, bias=True, hf_transposed=True)
