"""Layers: small objects that hold weights and declare operations in a program."""

from __future__ import annotations

from .attention import Attention
from .block import EncoderBlock, ParallelBlock, PostNormBlock, PreNormBlock, SandwichBlock
from .embedding import Embedding
from .feed_forward import ACTIVATIONS, FeedForward, GatedFeedForward
from .head import declare_head
from .linear import Linear
from .moe import Expert, MixtureOfExperts
from .norm import LayerNorm, RMSNorm
from .rope import Rope
from .scratch import Scratch

__all__ = [
    "ACTIVATIONS",
    "Attention",
    "Embedding",
    "EncoderBlock",
    "Expert",
    "FeedForward",
    "GatedFeedForward",
    "LayerNorm",
    "Linear",
    "MixtureOfExperts",
    "ParallelBlock",
    "PostNormBlock",
    "PreNormBlock",
    "RMSNorm",
    "Rope",
    "SandwichBlock",
    "Scratch",
    "declare_head",
]
