"""Transformer blocks: attention and feed-forward as branches of the residual stream.

Letters: T = tokens of a run.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from .attention import Attention
from .feed_forward import FeedForward, GatedFeedForward
from .moe import MixtureOfExperts
from .norm import LayerNorm, RMSNorm

if TYPE_CHECKING:
    from pyml_core.records import Buffer

    from .scratch import Scratch


AnyFeedForward = FeedForward | GatedFeedForward | MixtureOfExperts


class Body(Protocol):
    """The computation of a branch between its norms: it declares ``out = body(x)``, or ``out += body(x)``."""

    def __call__(self, name: str, x: Buffer, out: Buffer, accumulate: bool) -> Buffer:
        """Declare the body; names of its operations begin with ``name``."""
        ...


@dataclass(frozen=True, eq=False)
class PreNormBlock:
    """``h += attention(norm(h)); h += feed_forward(norm(h))``. Source: Xiong et al. 2020, arXiv 2002.04745."""

    attention_norm: LayerNorm | RMSNorm
    attention: Attention
    feed_forward_norm: LayerNorm | RMSNorm
    feed_forward: AnyFeedForward

    def declare(self, scratch: Scratch, layer: int, hidden: Buffer, rope: Buffer | None = None) -> None:
        """Declare both branches on the residual stream ``hidden`` (T, hidden size)."""
        attend = partial(self.attention.declare, scratch, layer=layer, rope=rope)
        feed = partial(self.feed_forward.declare, scratch)
        _branch(scratch, f"layers.{layer}.attention", hidden, self.attention_norm, attend)
        _branch(scratch, f"layers.{layer}.feed_forward", hidden, self.feed_forward_norm, feed)


@dataclass(frozen=True, eq=False)
class PostNormBlock:
    """``h += norm(attention(h)); h += norm(feed_forward(h))``. Source: OLMo 2, arXiv 2501.00656."""

    attention: Attention
    attention_post_norm: RMSNorm
    feed_forward: AnyFeedForward
    feed_forward_post_norm: RMSNorm

    def declare(self, scratch: Scratch, layer: int, hidden: Buffer, rope: Buffer | None = None) -> None:
        """Declare both branches on the residual stream ``hidden`` (T, hidden size)."""
        attend = partial(self.attention.declare, scratch, layer=layer, rope=rope)
        feed = partial(self.feed_forward.declare, scratch)
        _post_normed(scratch, f"layers.{layer}.attention", hidden, hidden, attend, self.attention_post_norm)
        _post_normed(scratch, f"layers.{layer}.feed_forward", hidden, hidden, feed, self.feed_forward_post_norm)


@dataclass(frozen=True, eq=False)
class EncoderBlock:
    """``h = norm(h + attention(h)); h = norm(h + feed_forward(h))``. Source: Vaswani et al. 2017, arXiv 1706.03762.

    For encoders: every run has whole texts, so that no later one reads their keys and values, and all layers use the
    first layer of the KV pages in turn.
    """

    attention: Attention
    attention_norm: LayerNorm
    feed_forward: AnyFeedForward
    feed_forward_norm: LayerNorm

    def declare(self, scratch: Scratch, layer: int, hidden: Buffer) -> None:
        """Declare both branches on the residual stream ``hidden`` (T, hidden size)."""
        attention, feed_forward = f"layers.{layer}.attention", f"layers.{layer}.feed_forward"
        middle = scratch.buffer("middle", hidden.width)
        self.attention.declare(scratch, attention, hidden, hidden, accumulate=True, layer=0)
        self.attention_norm.declare(scratch.program, f"{attention}.norm", hidden, middle)
        self.feed_forward.declare(scratch, feed_forward, middle, middle, accumulate=True)
        self.feed_forward_norm.declare(scratch.program, f"{feed_forward}.norm", middle, hidden)


@dataclass(frozen=True, eq=False)
class SandwichBlock:
    """``h += norm(attention(norm(h))); h += norm(feed_forward(norm(h)))``. Source: Gemma 2, arXiv 2408.00118."""

    attention_norm: RMSNorm
    attention: Attention
    attention_post_norm: RMSNorm
    feed_forward_norm: RMSNorm
    feed_forward: AnyFeedForward
    feed_forward_post_norm: RMSNorm

    def declare(self, scratch: Scratch, layer: int, hidden: Buffer, rope: Buffer | None = None) -> None:
        """Declare both branches on the residual stream ``hidden`` (T, hidden size)."""
        attend = partial(self.attention.declare, scratch, layer=layer, rope=rope)
        feed = partial(self.feed_forward.declare, scratch)
        _branch(scratch, f"layers.{layer}.attention", hidden, self.attention_norm, attend, self.attention_post_norm)
        _branch(
            scratch, f"layers.{layer}.feed_forward", hidden, self.feed_forward_norm, feed, self.feed_forward_post_norm
        )


@dataclass(frozen=True, eq=False)
class ParallelBlock:
    """``h += attention(norm(h)) + feed_forward(norm(h))``, with one norm or two.

    Source: Wang and Komatsuzaki 2021, GPT-J-6B; Almazrouei et al. 2023, arXiv 2311.16867.

    Attributes:
        attention_norm: norm of the attention; None: the feed-forward's norm is used for both.
    """

    attention_norm: LayerNorm | RMSNorm | None
    attention: Attention
    feed_forward_norm: LayerNorm | RMSNorm
    feed_forward: AnyFeedForward

    def declare(self, scratch: Scratch, layer: int, hidden: Buffer, rope: Buffer | None = None) -> None:
        """Declare both branches on the residual stream ``hidden`` (T, hidden size)."""
        attention, feed_forward = f"layers.{layer}.attention", f"layers.{layer}.feed_forward"
        normed = scratch.buffer("normed", hidden.width)
        self.feed_forward_norm.declare(scratch.program, f"{feed_forward}.norm", hidden, normed)
        attended = normed
        if self.attention_norm is not None:
            attended = scratch.buffer("attention_normed", hidden.width)
            self.attention_norm.declare(scratch.program, f"{attention}.norm", hidden, attended)
        self.attention.declare(scratch, attention, attended, hidden, accumulate=True, layer=layer, rope=rope)
        self.feed_forward.declare(scratch, feed_forward, normed, hidden, accumulate=True)


def _branch(
    scratch: Scratch,
    name: str,
    hidden: Buffer,
    norm: LayerNorm | RMSNorm,
    body: Body,
    post_norm: RMSNorm | None = None,
) -> None:
    """``hidden += post_norm(body(norm(hidden)))``; without ``post_norm``, the body adds to ``hidden`` directly."""
    normed = norm.declare(scratch.program, f"{name}.norm", hidden, scratch.buffer("normed", hidden.width))
    if post_norm is None:
        body(name, normed, hidden, accumulate=True)
        return
    _post_normed(scratch, name, normed, hidden, body, post_norm)


def _post_normed(scratch: Scratch, name: str, x: Buffer, hidden: Buffer, body: Body, post_norm: RMSNorm) -> None:
    """``hidden += post_norm(body(x))``."""
    out = body(name, x, scratch.buffer("branch", hidden.width), accumulate=False)
    post_norm.declare(scratch.program, f"{name}.post_norm", out, hidden, add_to=hidden)
