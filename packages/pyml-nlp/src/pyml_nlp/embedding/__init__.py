"""Embedding models: from texts to vectors, by an encoder, pooling and normalisation."""

from __future__ import annotations
