"""Tokenizers: text to token ids and back, with the ids of a model's own tokenizer.

``load_tokenizer`` makes a :class:`Tokenizer` from a model's files: tokenizer.json, vocab.json and merges.txt,
tokenizer.model, or the metadata of a GGUF file. The libraries that run them (``tokenizers``, ``sentencepiece``) are
imported when a tokenizer is loaded.
"""

from __future__ import annotations

from .base import MAX_TEXT, StreamDecoder, TextError, TokenIdError, Tokenizer
from .load import load_tokenizer

__all__ = ["MAX_TEXT", "StreamDecoder", "TextError", "TokenIdError", "Tokenizer", "load_tokenizer"]
