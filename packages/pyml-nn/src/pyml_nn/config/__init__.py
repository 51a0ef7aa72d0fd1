"""Configurations: ``config.json`` and GGUF metadata, read key by key into the fields of a model's ``Config``."""

from __future__ import annotations

from . import gguf, hf
from .dimensions import Dimensions
from .fields import MAX_CONTEXT, MAX_FACTOR, MAX_HEADS, MAX_LAYERS, MAX_THETA, MAX_VOCAB, MAX_WIDTH, Fields
from .table import Key, Known, Reader, constant

__all__ = [
    "MAX_CONTEXT",
    "MAX_FACTOR",
    "MAX_HEADS",
    "MAX_LAYERS",
    "MAX_THETA",
    "MAX_VOCAB",
    "MAX_WIDTH",
    "Dimensions",
    "Fields",
    "Key",
    "Known",
    "Reader",
    "constant",
    "gguf",
    "hf",
]
