"""Choosing and loading a model's tokenizer."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from ..errors import ModelFileError, changed_since_pickling
from ..formats.config import parse_json_object
from ..formats.gguf import GGUFFile
from ..formats.packed import PackedFile
from ..formats.packed_name import is_packed
from .base import Tokenizer, libraries
from .gguf import load_gguf
from .packed import PackedTokenizer, unpack_tokenizer

JSON, PIECES = "tokenizer.json", "tokenizer.model"
VOCAB_NAMES = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
"""Names of GPT-2's two files: as Hugging Face names them, and as OpenAI does."""

_OTHERS = ("tekken.json", "spiece.model", "vocab.txt", "tokenizer.tiktoken", "qwen.tiktoken", "vocab.json")


class HasMetadata(Protocol):
    """An open GGUF file: :class:`pyml_nlp.formats.gguf.GGUFFile`."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Keys and values of the file's header."""


def load_tokenizer(source: str | os.PathLike[str] | HasMetadata) -> Tokenizer:
    """Load the tokenizer of a model.

    Args:
        source: a folder in Hugging Face layout (tokenizer.json; else vocab.json and merges.txt, or encoder.json and
            vocab.bpe as OpenAI names them; else tokenizer.model), a GGUF file: an open one, or its path; or the path
            of a packed model.

    Raises:
        ModelFileError: none of these files exists, or one is malformed. The one-line message names the file, the
            expected and the found value.
    """
    with libraries:  # the first call imports them too
        tokenizer = _load(source)
    path = source if isinstance(source, str | os.PathLike) else getattr(source, "path", None)
    if path is not None:
        tokenizer.set_origin(Path(path), reload_tokenizer)
    return tokenizer


def reload_tokenizer(path: Path, fingerprint: str) -> Tokenizer:
    """Load a pickled tokenizer again.

    Raises:
        ModelFileError: it has another fingerprint than the pickled one.
    """
    tokenizer = load_tokenizer(path)
    if tokenizer.fingerprint != fingerprint:
        raise changed_since_pickling(path, "tokenizer")
    return tokenizer


def _load(source: str | os.PathLike[str] | HasMetadata) -> Tokenizer:
    if not isinstance(source, str | os.PathLike):
        return load_gguf(source.metadata, str(getattr(source, "path", "GGUF file")))
    folder = Path(source)
    if folder.is_file() and is_packed(folder):
        with PackedFile(folder) as packed:
            return unpack_tokenizer(packed_tokenizer(packed), str(folder))
    if folder.is_file():
        with GGUFFile(folder) as file:
            return _load(file)
    match tokenizer_files(folder):
        case ("tokenizer.json",):
            from .tokenizer_json import load_tokenizer_json  # perf: cold.py. Each kind imports its own library only

            return load_tokenizer_json(folder)
        case ("tokenizer.model",):
            from .tokenizer_model import load_tokenizer_model  # likewise

            return load_tokenizer_model(folder)
        case names:
            from .vocab_merges import load_vocab_and_merges  # likewise

            return load_vocab_and_merges(folder, *names)


def packed_tokenizer(file: PackedFile) -> PackedTokenizer:
    """Return the tokenizer of a packed model, as it is stored.

    Raises:
        ModelFileError: it is missing or damaged.
    """
    description = parse_json_object(file.section("tokenizer"), str(file.path))
    return PackedTokenizer(description, file.mapped_section("tokenizer tokens"), file.mapped_section("tokenizer model"))


def tokenizer_files(folder: Path) -> tuple[str, ...]:
    """Return the names of the files that a folder's tokenizer is made from.

    Raises:
        ModelFileError: the folder has no such files.
    """
    for names in ((JSON,), *VOCAB_NAMES, (PIECES,)):
        if all((folder / name).exists() for name in names):
            return names
    others = [name for name in _OTHERS if (folder / name).exists()]
    got = f"got {', '.join(others)}, which pyml does not read" if others else "got none of them"
    raise ModelFileError(f"{folder}: no tokenizer: expected {JSON}, vocab.json and merges.txt, or {PIECES}; {got}")
