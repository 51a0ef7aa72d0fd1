"""BERT: learned positions and token types, LayerNorm after each branch, GELU, biases everywhere, no causal mask.

Source: Devlin et al. 2018, arXiv 1810.04805; transformers' ``modeling_bert.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

from .. import decoder, encoder, parts
from ..config import MAX_VOCAB, Dimensions, Key, constant, hf
from ..errors import ConfigError
from ..layers import ACTIVATIONS, Attention, Embedding, EncoderBlock, LayerNorm, Scratch
from ..weights import NameRules, Spec, Weights


@dataclass(frozen=True, kw_only=True)
class Config(Dimensions):
    """Configuration of a BERT model.

    Attributes:
        activation: activation of the feed-forward.
        n_token_types: rows of the table of token types; a single text has type 0.
        first_position: row of the table of positions that the first token has.
    """

    HF = hf.Table(
        ("bert",),
        {
            **hf.SIZES,
            "n_kv_heads": lambda fields, known: known["n_heads"],
            "head_dim": lambda fields, known: known["hidden_size"] // known["n_heads"],
            "norm_eps": Key("layer_norm_eps", float, 0, 1, 1e-12),
            "tie_word_embeddings": constant(False),
            "activation": Key("hidden_act", ACTIVATIONS, default="gelu"),
            "n_token_types": Key("type_vocab_size", int, 1, MAX_VOCAB, 2),
        },
        fixed={"is_decoder": False, "position_embedding_type": "absolute"},
        harmless=("tie_word_embeddings",),
    )

    activation: str = "gelu_erf"
    n_token_types: int = 2
    first_position: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_heads * self.head_dim != self.hidden_size:
            raise ConfigError(f"hidden size: {self.hidden_size} does not divide into {self.n_heads} attention heads")


class Model(encoder.Encoder[Config]):
    """BERT; see :class:`pyml_nn.encoder.Encoder`."""

    # The pooler and the heads of pre-training are no part of the hidden states.
    rules = NameRules(hf_prefixes=("bert.",), ignored=(r"(bert\.)?pooler\.dense\.\w+", r"cls\.[\w.]+"))

    @staticmethod
    def specs(config: Config) -> dict[str, Spec]:
        """Names and shapes of all weights."""
        hidden, inner = config.hidden_size, config.intermediate_size
        tables = {
            "embedding.weight": ("word_embeddings", "token_embd", config.vocab_size),
            "positions": ("position_embeddings", "position_embd", config.context_length + config.first_position),
            "token_types": ("token_type_embeddings", "token_types", config.n_token_types),
        }
        found = {
            name: Spec(f"embeddings.{hf_name}.weight", f"{gguf_name}.weight", (rows, hidden))
            for name, (hf_name, gguf_name, rows) in tables.items()
        }
        for kind in ("weight", "bias"):
            found[f"embedding.norm.{kind}"] = Spec(f"embeddings.LayerNorm.{kind}", f"token_embd_norm.{kind}", (hidden,))
        return found | parts.layer_specs(
            config,
            [
                parts.Part("attention.q", "attention.self.query", "attn_q", (hidden, hidden), bias=True),
                parts.Part("attention.k", "attention.self.key", "attn_k", (hidden, hidden), bias=True),
                parts.Part("attention.v", "attention.self.value", "attn_v", (hidden, hidden), bias=True),
                parts.Part("attention.out", "attention.output.dense", "attn_output", (hidden, hidden), bias=True),
                parts.norm(config, "attention", "attention.output.LayerNorm", "attn_output_norm", bias=True),
                parts.Part("feed_forward.up", "intermediate.dense", "ffn_up", (inner, hidden), bias=True),
                parts.Part("feed_forward.down", "output.dense", "ffn_down", (hidden, inner), bias=True),
                parts.norm(config, "feed_forward", "output.LayerNorm", "layer_output_norm", bias=True),
            ],
            "encoder.layer",
        )

    def declare(self, weights: Weights, scratch: Scratch) -> None:
        """Read the weights and declare the program."""
        config, program = self.config, scratch.program
        embedded, hidden = (scratch.buffer(name, config.hidden_size) for name in ("middle", "hidden"))
        Embedding(weights.matrix("embedding.weight")).declare(program, "embedding", embedded)
        positions = weights.array("positions")[config.first_position :] + weights.array("token_types")[0]
        program.add_positions("embedding.positions", positions, embedded)
        self._norm(weights, "embedding.norm").declare(program, "embedding.norm", embedded, hidden)
        for layer in range(config.n_layers):
            self._block(weights, layer).declare(scratch, layer, hidden)

    def _block(self, weights: Weights, layer: int) -> EncoderBlock:
        config, name = self.config, f"layers.{layer}"
        attention = Attention(
            qkv=weights.linear(*(f"{name}.attention.{part}" for part in "qkv")),
            out=weights.linear(f"{name}.attention.out"),
            n_heads=config.n_heads,
            scale=config.head_dim**-0.5,
            bidirectional=True,
        )
        return EncoderBlock(
            attention,
            self._norm(weights, f"{name}.attention.norm"),
            decoder.read_plain(weights, layer, config.activation),
            self._norm(weights, f"{name}.feed_forward.norm"),
        )

    def _norm(self, weights: Weights, name: str) -> LayerNorm:
        return decoder.layer_norm(weights, name, self.config.norm_eps)
