"""GPT-2: learned positions, LayerNorm before each branch, GELU, biases everywhere, the head tied to the embedding.

Source: Radford et al. 2019; transformers' ``modeling_gpt2.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..config import MAX_CONTEXT, MAX_HEADS, MAX_LAYERS, MAX_VOCAB, MAX_WIDTH, Dimensions
from ..config.gguf import close_gguf, gguf_fields, gguf_vocab_size, layers_integer
from ..config.hf import close_hf, hf_fields
from ..errors import ConfigError
from ..layers import ACTIVATIONS, Attention, Embedding, FeedForward, LayerNorm, PreNormBlock, Scratch, declare_head
from ..model import Model as BaseModel
from ..weights import NameRules, Spec, Weights

_HARMLESS = {
    "n_ctx", "summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels",
    "summary_first_dropout", "reorder_and_upcast_attn",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Config(Dimensions):
    """What a GPT-2 model computes.

    Attributes:
        activation: between the two matrices of the feed-forward.
        scale_attention: scores are divided by the square root of head_dim.
        scale_by_layer: scores of layer i are divided by i + 1 as well.
    """

    activation: str = "gelu_tanh"
    scale_attention: bool = True
    scale_by_layer: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_heads * self.head_dim != self.hidden_size:
            raise ConfigError(f"hidden size: {self.hidden_size} does not divide into {self.n_heads} attention heads")

    @classmethod
    def from_hf(cls, values: Mapping[str, Any], where: str = "config.json") -> Config:
        """From a ``config.json``; ConfigError if it is malformed or asks for something else than this file computes."""
        fields = hf_fields(values, where, ("gpt2",))
        hidden_size = fields.integer("n_embd", 1, MAX_WIDTH)
        n_heads = fields.integer("n_head", 1, MAX_HEADS)
        config = cls(
            vocab_size=fields.integer("vocab_size", 1, MAX_VOCAB),
            context_length=fields.integer("n_positions", 1, MAX_CONTEXT),
            hidden_size=hidden_size,
            intermediate_size=fields.integer("n_inner", 1, MAX_WIDTH, default=4 * hidden_size),
            n_layers=fields.integer("n_layer", 1, MAX_LAYERS),
            n_heads=n_heads,
            n_kv_heads=n_heads,
            head_dim=hidden_size // n_heads,
            norm_eps=fields.number("layer_norm_epsilon", 0, 1, default=1e-5),
            tie_word_embeddings=fields.flag("tie_word_embeddings", True),
            activation=fields.choice("activation_function", ACTIVATIONS, default="gelu_new"),
            scale_attention=fields.flag("scale_attn_weights", True),
            scale_by_layer=fields.flag("scale_attn_by_inverse_layer_idx", False),
        )
        close_hf(fields, _HARMLESS)
        return config

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> Config:
        """From a GGUF file's metadata; ConfigError if it is malformed or asks for something else."""
        fields = gguf_fields(metadata, "gpt2")
        n_layers = fields.integer("block_count", 1, MAX_LAYERS)
        hidden_size = fields.integer("embedding_length", 1, MAX_WIDTH)
        n_heads = layers_integer(fields, n_layers, "attention.head_count", MAX_HEADS)
        n_kv_heads = layers_integer(fields, n_layers, "attention.head_count_kv", MAX_HEADS, default=n_heads)
        if n_kv_heads != n_heads:
            raise fields.error(
                "attention.head_count_kv", f"expected {n_heads}, as many as query heads, found {n_kv_heads}"
            )
        config = cls(
            vocab_size=gguf_vocab_size(fields, metadata),
            context_length=fields.integer("context_length", 1, MAX_CONTEXT),
            hidden_size=hidden_size,
            intermediate_size=layers_integer(fields, n_layers, "feed_forward_length", MAX_WIDTH),
            n_layers=n_layers,
            n_heads=n_heads,
            n_kv_heads=n_heads,
            head_dim=hidden_size // n_heads,
            norm_eps=fields.number("attention.layer_norm_epsilon", 0, 1),
            tie_word_embeddings=True,
        )
        close_gguf(fields)
        return config


class Model(BaseModel[Config]):
    """GPT-2; see :class:`pyml_nn.model.Model`."""

    # attn.bias and attn.masked_bias are the causal mask, which old checkpoints stored.
    rules = NameRules(hf_prefixes=("transformer.",), ignored=(r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias",))

    @staticmethod
    def specs(config: Config) -> dict[str, Spec]:
        """Every weight: internal name -> names in files, shape."""
        hidden, inner = config.hidden_size, config.intermediate_size
        tied = "head" if config.tie_word_embeddings else ""
        specs = {
            "embedding.weight": Spec("wte.weight", "token_embd.weight", (config.vocab_size, hidden)),
            "positions": Spec("wpe.weight", "position_embd.weight", (config.context_length, hidden)),
            "final_norm.weight": Spec("ln_f.weight", "output_norm.weight", (hidden,)),
            "final_norm.bias": Spec("ln_f.bias", "output_norm.bias", (hidden,)),
            "head.weight": Spec("lm_head.weight", "output.weight", (config.vocab_size, hidden), optional=tied),
        }
        for layer in range(config.n_layers):
            for name, hf, gguf, shape in (
                ("attention.norm", "ln_1", "attn_norm", (hidden,)),
                ("attention.qkv", "attn.c_attn", "attn_qkv", (3 * hidden, hidden)),
                ("attention.out", "attn.c_proj", "attn_output", (hidden, hidden)),
                ("feed_forward.norm", "ln_2", "ffn_norm", (hidden,)),
                ("feed_forward.up", "mlp.c_fc", "ffn_up", (inner, hidden)),
                ("feed_forward.down", "mlp.c_proj", "ffn_down", (hidden, inner)),
            ):
                ours, hf, gguf = f"layers.{layer}.{name}", f"h.{layer}.{hf}", f"blk.{layer}.{gguf}"
                specs[f"{ours}.weight"] = Spec(f"{hf}.weight", f"{gguf}.weight", shape, hf_transposed=len(shape) == 2)
                specs[f"{ours}.bias"] = Spec(f"{hf}.bias", f"{gguf}.bias", shape[:1])
        return specs

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
        return LayerNorm(weights.array(f"{name}.weight"), weights.array(f"{name}.bias"), self.config.norm_eps)
