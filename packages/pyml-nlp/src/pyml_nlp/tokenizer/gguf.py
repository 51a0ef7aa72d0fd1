"""Tokenizers from the metadata of a GGUF file.

Its ``tokenizer.ggml.model`` is ``llama`` (SentencePiece) or ``gpt2`` (byte-level BPE).

Source: llama.cpp, ``llama-vocab.cpp``, for the keys, their defaults and which tokens are found in text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pyml_core.errors import quoted

from ..errors import ModelFileError
from . import byte_level, model_proto
from .base import Tokenizer
from .byte_level import PRE_TOKENIZERS
from .decoding import SPACE, byte_of
from .gguf_vocabulary import KEY, Vocabulary, describe
from .library import LibraryTokenizer, build_bpe, guarded
from .model_proto import BYTE, CONTROL, UNKNOWN, UNUSED, USER_DEFINED, Spaces
from .pieces import PieceTokenizer, load_processor

_SUBSTITUTE = "\ufdd1"
"""A noncharacter: it begins the pieces that stand in for those that a model has already."""


def load_gguf(metadata: Mapping[str, Any], what: str) -> Tokenizer:
    """The tokenizer that the metadata of a GGUF file describes.

    Args:
        metadata: keys and values as :class:`pyml_nlp.formats.gguf.GGUFFile` gives them.
        what: the file, for messages.

    Raises:
        ModelFileError: a key is missing or its value malformed; a model or pre-tokenizer that pyml does not know.
    """
    match model := metadata.get(KEY + "model"):
        case str("llama"):
            return _load_llama(Vocabulary(metadata, what))
        case str("gpt2"):
            return _load_gpt2(Vocabulary(metadata, what))
    raise ModelFileError(f"{what}: {KEY}model: expected 'llama' or 'gpt2', got {describe(model)}")


def _load_llama(vocabulary: Vocabulary) -> Tokenizer:
    tokens = vocabulary.tokens
    if vocabulary.has("precompiled_charsmap"):  # of the model "t5"
        raise vocabulary.fail("precompiled_charsmap", "expected none for the model 'llama', got one")
    scores = vocabulary.numbers("scores", "f", "floats")
    if scores is None:
        raise vocabulary.fail("scores", "expected an array of floats, got none")
    with np.errstate(over="ignore"):
        scores = scores.astype(np.float32)
    if not np.isfinite(scores).all():
        number = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise vocabulary.fail("scores", f"token {number}: expected a finite score, got {scores[number]}")
    byte_ids = vocabulary.ids_of(BYTE)
    if byte_ids:
        _check_bytes(vocabulary, byte_ids)
    pieces = list(tokens)
    types = _with_one_unknown(vocabulary, pieces, bool(byte_ids))
    special: dict[int, str] = {}
    for number in vocabulary.ids_of(CONTROL, UNKNOWN, USER_DEFINED):
        text = tokens[number]
        pieces[number] = text.replace(" ", SPACE)  # GGUF has plain spaces in user-defined pieces
        special[number] = text if text.strip(" ") else pieces[number]
    if len(pieces) > len(tokens):
        scores = np.append(scores, np.float32(0))
    spaces = Spaces(vocabulary.flag("add_space_prefix", True), vocabulary.flag("remove_extra_whitespaces", False))
    texts: dict[int, str] = {}

    def build() -> bytes:
        return model_proto.write_bpe(
            pieces, scores, types, vocabulary.what, byte_fallback=bool(byte_ids), spaces=spaces
        )

    model = build()
    try:
        processor = load_processor(model, vocabulary.what)
    except ModelFileError:  # of a piece that is there twice, which to look for takes longer than to write all
        texts = _replace_repeated(vocabulary, pieces, types)
        if not texts:
            raise
        model = build()
        processor = load_processor(model, vocabulary.what)
    user_defined = set(vocabulary.ids_of(USER_DEFINED))
    return PieceTokenizer(
        vocabulary.facts("gguf llama", add_bos=True, default_ids={"bos": 1, "eos": 2}),
        model,
        processor,
        control={text: number for number, text in special.items() if number not in user_defined},
        added={text: number for number, text in special.items() if number in user_defined},
        texts=texts,
        spaces=spaces,
    )


def _replace_repeated(vocabulary: Vocabulary, pieces: list[str], types: npt.NDArray[np.uint8]) -> dict[int, str]:
    """Put pieces that no text has in the places of those that the model has already; what was there, by id."""
    texts = {number: pieces[number] for number in vocabulary.repeated(pieces)}
    for number in texts:
        pieces[number] = f"{_SUBSTITUTE}{number}"
        if types[number] != UNKNOWN:
            types[number] = UNUSED
    return texts


def _check_bytes(vocabulary: Vocabulary, ids: Sequence[int]) -> None:
    found = {}
    for number in ids:
        text = vocabulary.tokens[number]
        byte = byte_of(text)
        if byte is None or text != f"<0x{byte:02X}>":
            raise vocabulary.fail("tokens", f"token {number}: expected a byte such as '<0x0A>', got {quoted(text)}")
        found[byte] = number
    if len(found) != 256 or len(ids) != 256:
        raise vocabulary.fail(
            "token_type", f"expected 256 different byte tokens or none, got {len(ids)} tokens of {len(found)} bytes"
        )


def _with_one_unknown(vocabulary: Vocabulary, pieces: list[str], byte_fallback: bool) -> npt.NDArray[np.uint8]:
    """The types of the model's pieces, of which SentencePiece wants one to be unknown.

    That is the file's, or one more piece, which a model with byte pieces never gives. Old files of Phi 3 have several:
    the others are tokens that no text is read as, but for their own spelling.
    """
    ids, role = vocabulary.ids_of(UNKNOWN), vocabulary.roles.get("unknown")
    types = vocabulary.types.copy()
    if ids:
        types[ids] = UNUSED
        types[role if role in ids else ids[0]] = UNKNOWN
    elif role is not None and types[role] != BYTE:
        types[role] = vocabulary.types[role] = UNKNOWN
    elif byte_fallback:
        pieces.append("\ufdd0unknown")  # a noncharacter: the text of no other piece
        types = np.append(types, np.uint8(UNKNOWN))
    else:
        raise vocabulary.fail("unknown_token_id", "expected an unknown token or byte tokens, got neither")
    return types


def _load_gpt2(vocabulary: Vocabulary) -> Tokenizer:
    from tokenizers import AddedToken, normalizers
    from tokenizers import Tokenizer as Engine

    name = vocabulary.text(KEY + "pre")
    if name is None:
        vocabulary.warn("pre", "missing: text is cut as for GPT-2")
        name = "default"
    rule = PRE_TOKENIZERS.get(name)
    if rule is None:
        raise vocabulary.fail("pre", f"expected one of {', '.join(sorted(PRE_TOKENIZERS))}, got {quoted(name)}")
    tokens = vocabulary.tokens
    vocab = dict(zip(tokens, range(len(tokens)), strict=True))
    repeated = set() if len(vocab) == len(tokens) else set(vocabulary.repeated(tokens))
    if repeated:
        vocab = {text: number for number, text in enumerate(tokens) if number not in repeated}
    merges = vocabulary.merges()
    added = vocabulary.ids_of(CONTROL, UNKNOWN, USER_DEFINED)
    facts = vocabulary.facts("gguf gpt2", add_bos=rule.add_bos, default_ids={})
    model = build_bpe(vocab, merges, vocabulary.what, ignore_merges=rule.ignore_merges)
    with guarded(vocabulary.what):
        engine = Engine(model)
        if rule.nfc:
            engine.normalizer = normalizers.NFC()
        engine.pre_tokenizer = byte_level.build_pre_tokenizer(rule)
        special = set(facts.special_ids)
        engine.add_tokens(
            [
                AddedToken(tokens[number], normalized=False, special=number in special)
                for number in added
                if number not in repeated
            ]
        )
    texts = {number: tokens[number] for number in repeated}  # the library knows these as other tokens
    # An added token is its own text, also where all its characters happen to stand for bytes.
    texts |= {number: byte_level.from_bytes(tokens[number].encode()) for number in added}
    return LibraryTokenizer(facts, engine, texts=texts)
