"""Which tokenizer a model has."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from ..errors import ModelFileError
from .base import Tokenizer


class HasMetadata(Protocol):
    """A GGUF file that has been opened: :class:`pyml_nlp.formats.gguf.GGUFFile`."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Keys and values of its header."""


def load_tokenizer(source: str | os.PathLike[str] | HasMetadata) -> Tokenizer:
    """The tokenizer of a model.

    Args:
        source: a folder in Hugging Face layout (tokenizer.json; else vocab.json and merges.txt, also under their
            OpenAI names encoder.json and vocab.bpe; else tokenizer.model), or a GGUF file: open, or its path.

    Raises:
        ModelFileError: there is none of these files, or one is malformed: one line that names the file, what was
            expected and found.
    """
    if not isinstance(source, str | os.PathLike):
        from .gguf import load_gguf

        return load_gguf(source.metadata, str(getattr(source, "path", "GGUF file")))
    folder = Path(source)
    if folder.is_file():
        from ..formats.gguf import GGUFFile

        with GGUFFile(folder) as file:
            return load_tokenizer(file)
    if (folder / "tokenizer.json").exists():
        from .tokenizer_json import load_tokenizer_json

        return load_tokenizer_json(folder)
    from .folder import VOCAB_NAMES, load_tokenizer_model, load_vocab_and_merges

    for vocab_name, merges_name in VOCAB_NAMES:
        if (folder / vocab_name).exists() and (folder / merges_name).exists():
            return load_vocab_and_merges(folder, vocab_name, merges_name)
    if (folder / "tokenizer.model").exists():
        return load_tokenizer_model(folder)
    raise ModelFileError(
        f"{folder}: expected tokenizer.json, vocab.json and merges.txt, or tokenizer.model; got none of them"
    )
