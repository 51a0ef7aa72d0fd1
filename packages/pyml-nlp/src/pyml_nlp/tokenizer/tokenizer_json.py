"""Tokenizers from the tokenizer.json of a Hugging Face folder, run by the ``tokenizers`` library.

The file is parsed and checked here, and the library's object is built from the checked parts. This is also faster than
letting the library read the file (Gemma: 0.8 s rather than 1.1 s). A tokenizer.model in such a folder would load ten
times faster, but is not used: proving that both give equal ids requires reading tokenizer.json, and tokens that
users added to a model are often in tokenizer.json only.

:meth:`Tokenizer.encode` adds the ids at the beginning and end of a text, which the file's post-processor names. Like
transformers 5, pyml ignores ``add_bos_token`` and ``add_eos_token`` of tokenizer_config.json for these files.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import tokenizers

from pyml_core.errors import quoted

from ..errors import ModelFileError
from ..formats.config import read_json
from .added import add_tokens, own_texts
from .base import MAX_TOKENS, TokenizerMetadata
from .config_files import ConfigFiles, parse_added_token
from .guard import guarded
from .json_decoder import decoder, prefix_and_suffix
from .json_encoder import before_model
from .json_parts import listed, parts, section
from .library import LibraryTokenizer, build_bpe
from .model_proto import check_pieces
from .vocabulary_checks import check_vocab, split_merges

LIMIT = 200 << 20
"""Maximum size of a tokenizer.json in bytes: six times the largest one known."""

MAX_PREFIX = 16
"""Maximum number of characters of the prefix of WordPiece's pieces inside a word."""

MAX_WORD = 1000
"""Maximum number of characters of a word that WordPiece divides; longer words are unknown."""


def load_tokenizer_json(folder: Path) -> LibraryTokenizer:
    """Load the tokenizer of a folder with a tokenizer.json.

    Raises:
        ModelFileError: this file or a related one is malformed, or has parts that pyml does not know; it names them.
    """
    path = folder / "tokenizer.json"
    label = str(path)
    config = ConfigFiles(folder)
    document = read_json(path, LIMIT)
    added = [
        parse_added_token(entry, label) for entry in listed({"added_tokens": [], **document}, "added_tokens", label)
    ]
    if len(added) > MAX_TOKENS:
        raise ModelFileError(f"{label}: added_tokens: expected at most {MAX_TOKENS}, got {len(added)}")
    # As in transformers, a token's entry in the config overrides its entry in tokenizer.json.
    added += config.added_tokens({token.text for token in added})
    make_decoding, piece_bytes = decoder(document, label)
    model, vocab = _model(section(document, "model", label), label)
    with guarded(label):
        engine = before_model(document, label)
        engine.model = model
        add_tokens(engine, added, config.special_tokens(), label)
        known = engine.get_added_tokens_decoder()
    in_bytes = any(step.get("type") == "ByteLevel" for step in parts(document, "decoder", label))
    texts = own_texts(known, vocab) if in_bytes else {}
    vocab |= {token.content: number for number, token in known.items()}
    prefix, suffix = prefix_and_suffix(document, vocab, label)
    metadata = TokenizerMetadata(
        kind="tokenizer.json",
        vocab_size=max(vocab.values()) + 1,
        bos_id=config.bos_id(vocab),
        eos_ids=config.eos_ids(vocab),
        special_ids=[number for number, token in known.items() if token.special],
        prefix=prefix,
        suffix=suffix,
        named_tokens=config.named_tokens(),
        chat_templates=config.chat_templates(),
    )
    source = json.dumps(document.get("decoder"))
    return LibraryTokenizer(metadata, engine, make_decoding, piece_bytes, texts, source)


def library_object(document: dict[str, Any], label: str) -> tokenizers.Tokenizer:
    """Return the library's object for its own description, of an untrusted file.

    Raises:
        ModelFileError: the description is malformed, has parts that pyml does not know, or has other ids for its added
            tokens than the library.
    """
    added = [parse_added_token(entry, label) for entry in listed(document, "added_tokens", label)]
    if len(added) > MAX_TOKENS:
        raise ModelFileError(f"{label}: added_tokens: expected at most {MAX_TOKENS}, got {len(added)}")
    model, _ = _model(section(document, "model", label), label)
    with guarded(label):
        engine = before_model(document, label)
        engine.model = model
        add_tokens(engine, added, (), label)
        moved = next((token for token in added if engine.token_to_id(token.text) != token.id), None)
    if moved is not None:
        raise ModelFileError(f"{label}: added token {quoted(moved.text)}: expected the id that it gets, got {moved.id}")
    return engine


def _model(model: dict[str, Any], label: str) -> tuple[tokenizers.models.Model, dict[str, int]]:
    kind = model.get("type", "BPE" if "merges" in model else None)
    if kind == "BPE":
        return _bpe(model, label)
    if kind == "Unigram":
        return _unigram(model, label)
    if kind == "WordPiece":
        return _word_piece(model, label)
    raise ModelFileError(f"{label}: model: expected type BPE, Unigram or WordPiece, got {quoted(kind)}")


def _bpe(model: dict[str, Any], label: str) -> tuple[tokenizers.models.Model, dict[str, int]]:
    vocab = section(model, "vocab", label)
    check_vocab(vocab, label)
    merges = split_merges(listed(model, "merges", label), label)
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise ModelFileError(f"{label}: model: {name}: expected none, got {quoted(model[name])}")
    unknown_token = model.get("unk_token")
    if unknown_token is not None and (not isinstance(unknown_token, str) or unknown_token not in vocab):
        raise ModelFileError(f"{label}: model: unk_token {quoted(unknown_token)} is not in the vocabulary")
    flags = {name: _flag(model, name, label) for name in ("fuse_unk", "byte_fallback", "ignore_merges")}
    return build_bpe(vocab, merges, label, unk_token=unknown_token, **flags), vocab


def _unigram(model: dict[str, Any], label: str) -> tuple[tokenizers.models.Model, dict[str, int]]:
    pieces: list[tuple[str, float]] = []
    for number, entry in enumerate(listed(model, "vocab", label)):
        match entry:
            case [str(text), int() | float() as score] if not isinstance(score, bool) and math.isfinite(score):
                pieces.append((text, float(score)))
            case _:
                raise ModelFileError(
                    f"{label}: token {number}: expected a text and a finite score, got {quoted(entry)}"
                )
    vocab = {text: number for number, (text, _) in enumerate(pieces)}
    check_vocab(vocab, label)
    check_pieces(vocab, label)
    if len(vocab) != len(pieces):
        raise ModelFileError(f"{label}: expected each token once, got {len(pieces) - len(vocab)} again")
    unknown_id = model.get("unk_id")
    if unknown_id is not None and (type(unknown_id) is not int or not 0 <= unknown_id < len(pieces)):
        raise ModelFileError(f"{label}: model: unk_id: expected 0 to {len(pieces) - 1}, got {quoted(unknown_id)}")
    with guarded(label):
        return tokenizers.models.Unigram(pieces, unknown_id, _flag(model, "byte_fallback", label)), vocab


def _word_piece(model: dict[str, Any], label: str) -> tuple[tokenizers.models.Model, dict[str, int]]:
    vocab = section(model, "vocab", label)
    check_vocab(vocab, label)
    unknown, prefix = model.get("unk_token"), model.get("continuing_subword_prefix", "##")
    longest = model.get("max_input_chars_per_word", 100)
    if not isinstance(unknown, str) or unknown not in vocab:
        raise ModelFileError(f"{label}: model: unk_token {quoted(unknown)} is not in the vocabulary")
    if not isinstance(prefix, str) or len(prefix) > MAX_PREFIX:
        raise ModelFileError(f"{label}: model: continuing_subword_prefix: expected a short text, got {quoted(prefix)}")
    if type(longest) is not int or not 0 < longest <= MAX_WORD:  # the library's time for a word grows with its square
        raise ModelFileError(
            f"{label}: model: max_input_chars_per_word: expected 1 to {MAX_WORD}, got {quoted(longest)}"
        )
    with guarded(label):
        return tokenizers.models.WordPiece(
            vocab, unk_token=unknown, max_input_chars_per_word=longest, continuing_subword_prefix=prefix
        ), vocab


def _flag(model: dict[str, Any], name: str, label: str) -> bool:
    value = model.get(name, False)
    if not isinstance(value, bool):
        raise ModelFileError(f"{label}: model: {name}: expected true or false, got {quoted(value)}")
    return value
