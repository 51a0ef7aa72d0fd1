"""Tokenizers from the metadata of a GGUF file.

Its ``tokenizer.ggml.model`` is ``llama`` (SentencePiece), ``gpt2`` (byte-level BPE) or ``gemma4`` (BPE on text).

Source: llama.cpp, ``llama-vocab.cpp``, for the keys, their defaults and the tokens that are matched in text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import ModelFileError
from .base import Tokenizer
from .gguf_vocabulary import KEY, Vocabulary, describe


def load_gguf(metadata: Mapping[str, Any], label: str) -> Tokenizer:
    """Load the tokenizer that the metadata of a GGUF file describes.

    Args:
        metadata: keys and values as :class:`pyml_nlp.formats.gguf.GGUFFile` returns them.
        label: the file, for messages.

    Raises:
        ModelFileError: a key is missing or malformed, or the model or pre-tokenizer is unknown.
    """
    match model := metadata.get(KEY + "model"):
        case str("llama"):
            from .gguf_pieces import load_llama  # perf: cold.py. Each kind imports its own library only

            return load_llama(Vocabulary(metadata, label))
        case str("gpt2"):
            from .gguf_bpe import load_gpt2  # likewise

            return load_gpt2(Vocabulary(metadata, label))
        case str("gemma4"):
            from .gguf_bpe import load_gemma4  # likewise

            return load_gemma4(Vocabulary(metadata, label))
    raise ModelFileError(f"{label}: {KEY}model: expected 'llama', 'gpt2' or 'gemma4', got {describe(model)}")
