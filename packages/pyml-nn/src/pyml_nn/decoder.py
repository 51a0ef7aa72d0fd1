"""Decoders with RoPE: the wiring from ids to logits that they share, and the layers read from their weights.

A subclass of :class:`Decoder` says which weights it has and how they make a block; this file knows no architecture.

Letters: D = head_dim.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from .config import Dimensions, gguf
from .errors import ConfigError
from .layers import (
    Attention,
    Embedding,
    Expert,
    FeedForward,
    GatedFeedForward,
    LayerNorm,
    MixtureOfExperts,
    RMSNorm,
    Rope,
    SandwichBlock,
    Scratch,
    declare_head,
)
from .model import Model
from .weights import Weights

if TYPE_CHECKING:
    from pyml_core.records import Buffer
    from pyml_core.tensor import PackedMatrix

Rows = Mapping[str, npt.NDArray[np.intp]]


@dataclass(frozen=True, kw_only=True)
class Config(Dimensions):
    """Configuration of a decoder with RoPE.

    Attributes:
        rope: the rotation of every layer.
        activation: activation of the feed-forward.
    """

    rope: Rope
    activation: str = "silu"


@dataclass(frozen=True, kw_only=True)
class MixtureConfig(Config):
    """Configuration of a decoder with mixtures of experts.

    Attributes:
        n_experts: experts of a layer.
        n_chosen: number of experts that each token is sent to.
    """

    n_experts: int
    n_chosen: int

    @property
    def experts_per_token(self) -> int:
        """See :attr:`pyml_nn.config.Dimensions.experts_per_token`."""
        return self.n_chosen

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_chosen > self.n_experts:
            raise ConfigError(f"experts: {self.n_chosen} are chosen of {self.n_experts}")


C = TypeVar("C", bound=Config)


class Block(Protocol):
    """One layer of a model."""

    def declare(self, scratch: Scratch, layer: int, hidden: Buffer, rope: Buffer | None = None) -> None:
        """Declare the layer on the residual stream ``hidden`` (T, hidden size)."""
        ...


class Decoder(Model[C]):
    """A decoder with RoPE: embedding, blocks, final norm, head.

    A subclass defines :meth:`specs` and :meth:`block`, and overrides the other methods where its architecture differs.
    """

    @abstractmethod
    def block(self, weights: Weights, layer: int) -> Block:
        """Read the weights of one layer, in the order of their use."""

    def norm(self, weights: Weights, name: str) -> RMSNorm:
        """Read one norm."""
        return rms_norm(weights, name, self.config.norm_eps)

    def final_norm(self, weights: Weights) -> RMSNorm | LayerNorm:
        """Read the norm before the head."""
        return self.norm(weights, "final_norm")

    def ropes(self, weights: Weights) -> Sequence[tuple[str, Rope] | None]:
        """The rotation of every layer, with the name of the operation that computes its angles; None: no rotation."""
        return [("rope", self.config.rope)] * self.config.n_layers

    @property
    def embedding_scale(self) -> float:
        """Factor of the embeddings."""
        return 1.0

    @property
    def logit_soft_cap(self) -> float:
        """Logits become ``cap * tanh(logit / cap)``; 0: they are not capped."""
        return 0.0

    def declare(self, weights: Weights, scratch: Scratch) -> None:
        """Read the weights and declare the program."""
        hidden, table = self.declare_states(weights, scratch)
        head = weights.head("head.weight", table, self.config.tie_word_embeddings)
        bias = weights.array("head.bias") if weights.has("head.bias") else None
        declare_head(scratch, hidden, self.final_norm(weights), head, self.logit_soft_cap, bias)

    def declare_states(self, weights: Weights, scratch: Scratch) -> tuple[Buffer, PackedMatrix]:
        """Declare all layers; returns the last one's hidden states (T, hidden size), and the table of embeddings."""
        config, program = self.config, scratch.program
        ropes = self.ropes(weights)
        table = weights.matrix("embedding.weight")
        embedding = Embedding(table, self.embedding_scale)
        hidden = embedding.declare(program, "embedding", scratch.buffer("hidden", config.hidden_size))
        angles = {named: named[1].declare(program, named[0]) for named in dict.fromkeys(ropes) if named is not None}
        for layer, named in enumerate(ropes):
            self.block(weights, layer).declare(scratch, layer, hidden, None if named is None else angles[named])
        return hidden, table

    def sandwich_block(
        self, weights: Weights, layer: int, attention: Attention, feed_forward: GatedFeedForward
    ) -> SandwichBlock:
        """Read the norms of a block with norms before and after each branch."""
        name = f"layers.{layer}"
        return SandwichBlock(
            attention_norm=self.norm(weights, f"{name}.attention.norm"),
            attention=attention,
            attention_post_norm=self.norm(weights, f"{name}.attention.post_norm"),
            feed_forward_norm=self.norm(weights, f"{name}.feed_forward.norm"),
            feed_forward=feed_forward,
            feed_forward_post_norm=self.norm(weights, f"{name}.feed_forward.post_norm"),
        )


# ---- layers, read from the weights


def rms_norm(weights: Weights, name: str, eps: float) -> RMSNorm:
    """Read an RMSNorm."""
    return RMSNorm(weights.array(f"{name}.weight"), eps)


def offset_norm(weights: Weights, name: str, eps: float) -> RMSNorm:
    """Read an RMSNorm of Gemma: checkpoints store its weight less 1, GGUF files store the weight itself."""
    weight = weights.array(f"{name}.weight")
    return RMSNorm(weight if weights.gguf else weight + np.float32(1), eps)


def layer_norm(weights: Weights, name: str, eps: float) -> LayerNorm:
    """Read a LayerNorm; one without a bias has zeros."""
    weight = weights.array(f"{name}.weight")
    bias = weights.array(f"{name}.bias") if weights.has(f"{name}.bias") else np.zeros_like(weight)
    return LayerNorm(weight, bias, eps)


def read_rope(weights: Weights, rope: Rope) -> Rope:
    """Return this rotation with the factors of a GGUF file that has them; see :func:`parts.rope_factors`."""
    return gguf.with_factors(rope, weights.array("rope.factors")) if weights.has("rope.factors") else rope


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
    rotated: int | None = None,
) -> Attention:
    """Read the attention of one layer from separate matrices for q, k and v.

    Args:
        weights: the source.
        layer: index of the layer.
        config: the sizes.
        window: see :class:`Attention`.
        scale: see :class:`Attention`; None: ``D ** -0.5``.
        soft_cap: see :class:`Attention`.
        norm: reads the norms of query and key heads; None: there are no such norms.
        interleaved: whether the rows of q and k are interleaved, see :func:`half_split`.
        rotated: number of interleaved elements, from a head's first one; None: the whole head.
    """
    name = f"layers.{layer}.attention"
    q, k, v = f"{name}.q", f"{name}.k", f"{name}.v"
    rows: Rows | None = None
    if interleaved:
        rows = {
            name: half_split(n_heads, config.head_dim, rotated)
            for name, n_heads in ((q, config.n_heads), (k, config.n_kv_heads))
        }
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
    """Read the gated feed-forward of one layer from separate matrices for gate and up."""
    name = f"layers.{layer}.feed_forward"
    return GatedFeedForward(
        gate_up=weights.linear(f"{name}.gate", f"{name}.up"),
        activation=activation,
        down=weights.linear(f"{name}.down"),
    )


def read_gate_up(weights: Weights, layer: int, activation: str) -> GatedFeedForward:
    """Read the gated feed-forward of one layer from one matrix for gate and up."""
    name = f"layers.{layer}.feed_forward"
    return GatedFeedForward(weights.linear(f"{name}.gate_up"), activation, weights.linear(f"{name}.down"))


def read_plain(weights: Weights, layer: int, activation: str) -> FeedForward:
    """Read the feed-forward of one layer, without a gate."""
    name = f"layers.{layer}.feed_forward"
    return FeedForward(weights.linear(f"{name}.up"), activation, weights.linear(f"{name}.down"))


def read_experts(
    weights: Weights, layer: int, n_experts: int, n_chosen: int, activation: str, *, normalize: bool = True
) -> MixtureOfExperts:
    """Read the mixture of experts of one layer; ``normalize`` as in :class:`MixtureOfExperts`."""
    name = f"layers.{layer}.feed_forward"
    router = weights.linear(f"{name}.router")
    experts = [
        Expert(*(weights.matrix(f"{name}.{expert}.{part}.weight") for part in ("gate", "up", "down")))
        for expert in range(n_experts)
    ]
    return MixtureOfExperts(router, tuple(experts), n_chosen, activation, normalize)


def half_split(n_heads: int, head_dim: int, rotated: int | None = None) -> npt.NDArray[np.intp]:
    """For each row of q or k, its row in a GGUF file of architecture ``llama``: (n_heads * D).

    Such files interleave the two halves of every head (element i, then element i + D/2) for llama.cpp's variant of RoPE
    (``LlamaModel.permute`` of its converter); pyml rotates one half against the other. If only the first ``rotated``
    elements of a head are interleaved, the others stay where they are.
    """
    width = head_dim if rotated is None else rotated
    rows = np.arange(n_heads * head_dim).reshape(n_heads, head_dim)
    pairs = rows[:, :width].reshape(n_heads, width // 2, 2)
    return np.concatenate([pairs[:, :, 0], pairs[:, :, 1], rows[:, width:]], axis=1).reshape(-1)


def by_kind(n_heads: int, n_kv_heads: int, head_dim: int) -> npt.NDArray[np.intp]:
    """For each row of [q heads | k heads | v heads], its row in a checkpoint of Falcon or GPT-NeoX.

    There, the query heads of each key/value head are followed by its k and v. GGUF files have the rows by kind.
    """
    group = n_heads // n_kv_heads
    heads = np.arange(n_kv_heads * (group + 2)).reshape(n_kv_heads, group + 2)
    order = np.concatenate([heads[:, :group].reshape(-1), heads[:, group], heads[:, group + 1]])
    return np.asarray((order[:, None] * head_dim + np.arange(head_dim)).reshape(-1), np.intp)
