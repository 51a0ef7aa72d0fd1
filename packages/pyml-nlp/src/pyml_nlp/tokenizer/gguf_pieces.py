"""Tokenizers of GGUF files with the model ``llama``: their pieces as a SentencePiece model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pyml_core.errors import quoted

from ..errors import ModelFileError
from . import model_proto
from .base import Tokenizer
from .decoding import SPACE, byte_of
from .gguf_vocabulary import Vocabulary
from .model_proto import BYTE, CONTROL, UNKNOWN, UNUSED, USER_DEFINED, Spaces
from .pieces import PieceTokenizer, load_processor

_SUBSTITUTE = "\ufdd1"
"""A noncharacter that begins the substitutes for repeated pieces."""


def load_llama(vocabulary: Vocabulary) -> Tokenizer:
    """Load a SentencePiece tokenizer.

    Raises:
        ModelFileError: a key is missing or malformed, or SentencePiece refuses the pieces.
    """
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
