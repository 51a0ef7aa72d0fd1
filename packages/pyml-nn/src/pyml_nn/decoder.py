"""What most decoders share: how their weights are called, the layers that read them, the wiring from ids to logits.

An architecture's file says which of these parts it has; nothing here knows an architecture.

Letters: H = key/value heads, D = head_dim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from .layers import Attention, Embedding, GatedFeedForward, LayerNorm, RMSNorm, Rope, SandwichBlock, declare_head
from .weights import Spec, Weights

if TYPE_CHECKING:
    from pyml_core.graph import Buffer

    from .config import Dimensions
    from .layers import Scratch

Rows = Mapping[str, npt.NDArray[np.intp]]

# ---- names and shapes


class Part(NamedTuple):
    """One weight of every layer, with its bias.

    Attributes:
        name: what pyml calls it within the layer (``attention.q``).
        hf: what checkpoints call it (``self_attn.q_proj``).
        gguf: what GGUF files call it (``attn_q``).
        shape: of the weight; a bias is as long as its first axis.
        bias: whether it has one; None: if the file has it, in all layers.
        optional: the file may be without the weight and its bias, in all layers.
        gguf_index: see :class:`pyml_nn.weights.Spec`.
        exact: see :class:`pyml_nn.weights.Spec`.
    """

    name: str
    hf: str
    gguf: str
    shape: tuple[int, ...]
    bias: bool | None = False
    optional: bool = False
    gguf_index: int | None = None
    exact: bool = False


def norm_part(config: Dimensions, name: str, hf: str, gguf: str, bias: bool = False, optional: bool = False) -> Part:
    """A norm of the residual stream."""
    return Part(f"{name}.norm", hf, gguf, (config.hidden_size,), bias, optional)


def attention_parts(config: Dimensions, qkv_bias: bool | None = False, out_bias: bool | None = False) -> list[Part]:
    """The four matrices of attention."""
    hidden, q, kv = config.hidden_size, config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    return [
        Part("attention.q", "self_attn.q_proj", "attn_q", (q, hidden), qkv_bias),
        Part("attention.k", "self_attn.k_proj", "attn_k", (kv, hidden), qkv_bias),
        Part("attention.v", "self_attn.v_proj", "attn_v", (kv, hidden), qkv_bias),
        Part("attention.out", "self_attn.o_proj", "attn_output", (hidden, q), out_bias),
    ]


def qk_norm_parts(config: Dimensions) -> list[Part]:
    """The norms of query and key heads."""
    return [
        Part("attention.q_norm", "self_attn.q_norm", "attn_q_norm", (config.head_dim,)),
        Part("attention.k_norm", "self_attn.k_norm", "attn_k_norm", (config.head_dim,)),
    ]


def gated_parts(config: Dimensions, bias: bool | None = False) -> list[Part]:
    """The three matrices of a gated feed-forward."""
    hidden, inner = config.hidden_size, config.intermediate_size
    return [
        Part("feed_forward.gate", "mlp.gate_proj", "ffn_gate", (inner, hidden), bias),
        Part("feed_forward.up", "mlp.up_proj", "ffn_up", (inner, hidden), bias),
        Part("feed_forward.down", "mlp.down_proj", "ffn_down", (hidden, inner), bias),
    ]


def sandwich_parts(config: Dimensions, attention: Sequence[Part], feed_forward: Sequence[Part]) -> list[Part]:
    """A layer with norms before and after each branch."""
    return [
        norm_part(config, "attention", "input_layernorm", "attn_norm"),
        *attention,
        Part("attention.post_norm", "post_attention_layernorm", "post_attention_norm", (config.hidden_size,)),
        norm_part(config, "feed_forward", "pre_feedforward_layernorm", "ffn_norm"),
        *feed_forward,
        Part("feed_forward.post_norm", "post_feedforward_layernorm", "post_ffw_norm", (config.hidden_size,)),
    ]


def decoder_specs(
    config: Dimensions,
    parts: Sequence[Part],
    embedding: str = "embed_tokens",
    final_norm: str = "norm",
    layers: str = "layers",
    norm_bias: bool = False,
) -> dict[str, Spec]:
    """Every weight of a model whose layers consist of these parts; the other arguments are checkpoints' names."""
    table, hidden = (config.vocab_size, config.hidden_size), (config.hidden_size,)
    tied = "head" if config.tie_word_embeddings else ""
    specs = {
        "embedding.weight": Spec(f"{embedding}.weight", "token_embd.weight", table),
        "final_norm.weight": Spec(f"{final_norm}.weight", "output_norm.weight", hidden),
        "head.weight": Spec("lm_head.weight", "output.weight", table, optional=tied),
    }
    if norm_bias:
        specs["final_norm.bias"] = Spec(f"{final_norm}.bias", "output_norm.bias", hidden)
    for layer in range(config.n_layers):
        for part in parts:
            ours, hf, gguf = f"layers.{layer}.{part.name}", f"{layers}.{layer}.{part.hf}", f"blk.{layer}.{part.gguf}"
            specs[f"{ours}.weight"] = Spec(
                f"{hf}.weight", f"{gguf}.weight", part.shape, part.name if part.optional else "",
                gguf_index=part.gguf_index, exact=part.exact,
            )  # fmt: skip
            if part.bias is not False:
                optional = part.name if part.bias is None or part.optional else ""
                specs[f"{ours}.bias"] = Spec(f"{hf}.bias", f"{gguf}.bias", part.shape[:1], optional)
    return specs


# ---- layers, read from the weights


def rms_norm(weights: Weights, name: str, eps: float) -> RMSNorm:
    """The RMSNorm of this name."""
    return RMSNorm(weights.array(f"{name}.weight"), eps)


def offset_norm(weights: Weights, name: str, eps: float) -> RMSNorm:
    """Gemma's RMSNorm, whose weight checkpoints hold less 1; GGUF files have the 1 added already."""
    weight = weights.array(f"{name}.weight")
    return RMSNorm(weight if weights.gguf else weight + np.float32(1), eps)


def layer_norm(weights: Weights, name: str, eps: float) -> LayerNorm:
    """The LayerNorm of this name."""
    return LayerNorm(weights.array(f"{name}.weight"), weights.array(f"{name}.bias"), eps)


def read_attention(
    weights: Weights,
    layer: int,
    config: Dimensions,
    *,
    window: int = 0,
    scale: float | None = None,
    soft_cap: float = 0.0,
    norm: Callable[[Weights, str], RMSNorm] | None = None,
    interleaved: bool = False,
) -> Attention:
    """Attention of one layer, from separate matrices for q, k and v.

    Args:
        weights: where they are read from.
        layer: which.
        config: sizes.
        window: see :class:`Attention`.
        scale: see :class:`Attention`; None: ``D ** -0.5``.
        soft_cap: see :class:`Attention`.
        norm: reads the norms of query and key heads; None: there are none.
        interleaved: the rows of q and k are :func:`half_split` ones.
    """
    name = f"layers.{layer}.attention"
    q, k, v = f"{name}.q", f"{name}.k", f"{name}.v"
    rows: Rows | None = None
    if interleaved:
        rows = {q: half_split(config.n_heads, config.head_dim), k: half_split(config.n_kv_heads, config.head_dim)}
    return Attention(
        qkv=weights.linear(q, k, v, rows=rows),
        out=weights.linear(f"{name}.out"),
        n_heads=config.n_heads,
        scale=config.head_dim**-0.5 if scale is None else scale,
        window=window,
        soft_cap=soft_cap,
        q_norm=None if norm is None else norm(weights, f"{name}.q_norm"),
        k_norm=None if norm is None else norm(weights, f"{name}.k_norm"),
    )


def read_gated(weights: Weights, layer: int, activation: str) -> GatedFeedForward:
    """The gated feed-forward of one layer, from separate matrices for gate and up."""
    name = f"layers.{layer}.feed_forward"
    return GatedFeedForward(
        gate_up=weights.linear(f"{name}.gate", f"{name}.up"),
        activation=activation,
        down=weights.linear(f"{name}.down"),
    )


def read_sandwich(
    weights: Weights,
    layer: int,
    attention: Attention,
    feed_forward: GatedFeedForward,
    norm: Callable[[Weights, str], RMSNorm],
) -> SandwichBlock:
    """A block of these two branches with the norms around them."""
    name = f"layers.{layer}"
    return SandwichBlock(
        attention_norm=norm(weights, f"{name}.attention.norm"),
        attention=attention,
        attention_post_norm=norm(weights, f"{name}.attention.post_norm"),
        feed_forward_norm=norm(weights, f"{name}.feed_forward.norm"),
        feed_forward=feed_forward,
        feed_forward_post_norm=norm(weights, f"{name}.feed_forward.post_norm"),
    )


def half_split(n_heads: int, head_dim: int) -> npt.NDArray[np.intp]:
    """For every row of q or k, where a GGUF file of architecture ``llama`` has it: (n_heads * D).

    Such files interleave the two halves of every head (element i beside element i + D/2) for llama.cpp's way of RoPE
    (``LlamaModel.permute`` of its converter); pyml rotates half against half.
    """
    rows = np.arange(n_heads * head_dim).reshape(n_heads, head_dim // 2, 2)
    return np.ascontiguousarray(rows.swapaxes(1, 2)).reshape(-1)


# ---- the whole


class Block(Protocol):
    """One layer of a model."""

    def declare(self, scratch: Scratch, layer: int, hidden: Buffer, rope: Buffer | None = None) -> None:
        """Declare it on the residual stream ``hidden`` (T, hidden size)."""
        ...


def declare_decoder(
    weights: Weights,
    scratch: Scratch,
    config: Dimensions,
    ropes: Iterable[tuple[str, Rope]],
    block: Callable[[Weights, int], Block],
    norm: Callable[[Weights, str], RMSNorm | LayerNorm],
    embedding_scale: float = 1.0,
    soft_cap: float = 0.0,
) -> None:
    """Read the weights and declare a model: embedding, blocks, final norm, head.

    Args:
        weights: read in the order of their use.
        scratch: hands out the program's buffers.
        config: sizes.
        ropes: the rotation of every layer, with the name of the operation that computes its angles.
        block: reads one layer's block.
        norm: reads the final norm.
        embedding_scale: factor of the embeddings.
        soft_cap: of the logits; 0 is none.
    """
    program = scratch.program
    table = weights.matrix("embedding.weight")
    embedding = Embedding(table, embedding_scale)
    hidden = embedding.declare(program, "embedding", scratch.buffer("hidden", config.hidden_size))
    ropes = list(ropes)
    angles = {name: rope.declare(program, name) for name, rope in dict(ropes).items()}
    for layer, (name, _) in enumerate(ropes):
        block(weights, layer).declare(scratch, layer, hidden, angles[name])
    head = weights.head("head.weight", table, config.tie_word_embeddings)
    declare_head(scratch, hidden, norm(weights, "final_norm"), head, soft_cap)
