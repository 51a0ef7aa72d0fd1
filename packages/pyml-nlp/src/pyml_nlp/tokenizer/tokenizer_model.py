"""Tokenizers of folders with a SentencePiece model, tokenizer.model."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

import numpy as np

from pyml_core.errors import quoted

from ..errors import ModelFileError
from .base import MAX_TOKENS, TokenizerMetadata
from .bounded import read_bytes
from .config_files import AddedToken, ConfigFiles
from .pieces import PieceTokenizer, SpacePrefix, checked_processor

_log = logging.getLogger("pyml.tokenizer")

_MODEL_LIMIT = 64 << 20


def load_tokenizer_model(folder: Path) -> PieceTokenizer:
    """Load a SentencePiece model.

    Raises:
        ModelFileError: the file is malformed or not a SentencePiece model, or does not match the folder's other files.
    """
    path = folder / "tokenizer.model"
    label = str(path)
    config = ConfigFiles(folder)
    model = read_bytes(path, _MODEL_LIMIT)
    processor, pieces, spaces = checked_processor(model, label)
    size = len(pieces)
    numbers = list(range(size))
    special = set(np.flatnonzero(processor.is_control(numbers)).tolist()) | {processor.unk_id()}
    texts: dict[int, str] = {}
    added: dict[str, int] = {}
    for token in config.added_tokens():
        _check_added(token, pieces, special, label)
        if token.id >= size or pieces[token.id] != token.text:
            texts[token.id] = token.text
        if token.special:
            special.add(token.id)
        else:
            special.discard(token.id)
            added[token.text] = token.id
    vocab = dict(zip(pieces, numbers, strict=True))
    for number in texts:
        if number < size:
            del vocab[pieces[number]]
    vocab |= {text: number for number, text in texts.items()}
    special.update(vocab[text] for text in config.special_tokens() if text in vocab)
    own = tuple(number if number >= 0 else None for number in (processor.bos_id(), processor.eos_id()))
    bos = config.bos_id(vocab)
    prefix, suffix = config.prefix_and_suffix(vocab, (own[0], own[1]))
    if own[0] is not None and "add_bos_token" not in config.tokenizer:
        _log.warning("%s: no add_bos_token: texts do not begin with %.80r", folder, pieces[own[0]])
    metadata = TokenizerMetadata(
        kind="tokenizer.model",
        vocab_size=max(vocab.values()) + 1,
        bos_id=own[0] if bos is None else bos,
        eos_ids=config.eos_ids(vocab) or (() if own[1] is None else (own[1],)),
        special_ids=special,
        prefix=prefix,
        suffix=suffix,
        named_tokens=config.named_tokens(),
        chat_templates=config.chat_templates(),
    )
    # transformers' rules for Llama: "legacy" puts the space before every part between special tokens.
    space_prefix: SpacePrefix = "always" if config.flag("legacy", False) else "first"
    return PieceTokenizer(
        metadata,
        model,
        processor,
        control={texts.get(number) or pieces[number]: number for number in special},
        added=added,
        texts=texts,
        space_prefix=space_prefix if config.flag("add_prefix_space", True) else "never",
        spaces=spaces,
    )


def _check_added(token: AddedToken, pieces: list[str], special: Collection[int], label: str) -> None:
    """Check that an added token is new, equals the piece with its id, or replaces a control piece."""
    if token.id >= MAX_TOKENS:
        raise ModelFileError(
            f"{label}: added token {quoted(token.text)}: expected an id below {MAX_TOKENS}, got {token.id}"
        )
    if token.lstrip or token.rstrip or token.single_word:
        raise ModelFileError(
            f"{label}: added token {quoted(token.text)}: "
            "lstrip, rstrip and single_word are known in tokenizer.json alone"
        )
    if token.id < len(pieces) and pieces[token.id] != token.text and token.id not in special:
        raise ModelFileError(
            f"{label}: added token {quoted(token.text)}: its id {token.id} is that of {quoted(pieces[token.id])}"
        )
