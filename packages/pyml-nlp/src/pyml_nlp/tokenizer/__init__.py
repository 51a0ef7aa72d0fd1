"""Text to token ids and back, as the model's own tokenizer does it.

``load_tokenizer`` makes a :class:`Tokenizer` from what a model comes with: tokenizer.json, vocab.json and merges.txt,
tokenizer.model, or the metadata of a GGUF file. The libraries that run them (``tokenizers``, ``sentencepiece``) are
imported only when one is loaded.
"""

from __future__ import annotations

from .base import MAX_TEXT, StreamDecoder, TextError, TokenIdError, Tokenizer
from .load import load_tokenizer

__all__ = ["MAX_TEXT", "StreamDecoder", "TextError", "TokenIdError", "Tokenizer", "load_tokenizer"]
