"""Configurations: ``config.json`` and GGUF metadata, read key by key into the sizes of a model."""

from __future__ import annotations

from .dimensions import MAX_CONTEXT, MAX_HEADS, MAX_LAYERS, MAX_VOCAB, MAX_WIDTH, Dimensions, Sizes
from .fields import Fields

__all__ = ["MAX_CONTEXT", "MAX_HEADS", "MAX_LAYERS", "MAX_VOCAB", "MAX_WIDTH", "Dimensions", "Fields", "Sizes"]
