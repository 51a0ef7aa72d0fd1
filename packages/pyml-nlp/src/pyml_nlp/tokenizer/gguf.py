"""Tokenizers from the metadata of a GGUF file.

Its ``tokenizer.ggml.model`` is ``llama`` (SentencePiece) or ``gpt2`` (byte-level BPE).

Source: llama.cpp, ``llama-vocab.cpp``, for the keys, their defaults and the tokens that are matched in text.
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
"""A noncharacter that begins the substitutes for repeated pieces."""


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
            return _load_llama(Vocabulary(metadata, label))
        case str("gpt2"):
            return _load_gpt2(Vocabulary(metadata, label))
    raise ModelFileError(f"{label}: {KEY}model: expected 'llama' or 'gpt2', got {describe(model)}")


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
        pieces[number] = text.replace(" ", SPACE)  # GGUF spells user-defined pieces with plain spaces
        special[number] = text if text.strip(" ") else pieces[number]
    if len(pieces) > len(tokens):
        scores = np.append(scores, np.float32(0))
    spaces = Spaces(vocabulary.flag("add_space_prefix", True), vocabulary.flag("remove_extra_whitespaces", False))
    texts: dict[int, str] = {}

    def build() -> bytes:
        return model_proto.write_bpe(
            pieces, scores, types, vocabulary.label, byte_fallback=bool(byte_ids), spaces=spaces
        )

    model = build()
    try:
        processor = load_processor(model, vocabulary.label)
    except ModelFileError:  # probably a repeated piece. Searching for one first takes longer than writing the model
        texts = _replace_repeated(vocabulary, pieces, types)
        if not texts:
            raise
        model = build()
        processor = load_processor(model, vocabulary.label)
    user_defined = set(vocabulary.ids_of(USER_DEFINED))
    return PieceTokenizer(
        vocabulary.tokenizer_metadata("gguf llama", add_bos=True, default_ids={"bos": 1, "eos": 2}),
        model,
        processor,
        control={text: number for number, text in special.items() if number not in user_defined},
        added={text: number for number, text in special.items() if number in user_defined},
        texts=texts,
        spaces=spaces,
    )


def _replace_repeated(vocabulary: Vocabulary, pieces: list[str], types: npt.NDArray[np.uint8]) -> dict[int, str]:
    """Replace repeated pieces by substitutes that no text contains. Returns the original pieces by id."""
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
    """Return the types of the model's pieces, exactly one of which is unknown, as SentencePiece requires.

    That piece is the file's, or an extra one, which a model with byte pieces never produces. Old files of Phi 3 have
    several unknown tokens: the others are matched by their own spelling only.
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
    metadata = vocabulary.tokenizer_metadata("gguf gpt2", add_bos=rule.add_bos, default_ids={})
    model = build_bpe(vocab, merges, vocabulary.label, ignore_merges=rule.ignore_merges)
    with guarded(vocabulary.label):
        engine = Engine(model)
        if rule.nfc:
            engine.normalizer = normalizers.NFC()
        engine.pre_tokenizer = byte_level.build_pre_tokenizer(rule)
        special = set(metadata.special_ids)
        engine.add_tokens(
            [
                AddedToken(tokens[number], normalized=False, special=number in special)
                for number in added
                if number not in repeated
            ]
        )
    texts = {number: tokens[number] for number in repeated}  # the library has other ids for these texts
    # An added token is plain text, even if all its characters could stand for bytes.
    texts |= {number: byte_level.from_bytes(tokens[number].encode()) for number in added}
    return LibraryTokenizer(metadata, engine, texts=texts)
