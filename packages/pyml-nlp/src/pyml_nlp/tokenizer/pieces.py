"""Tokenizers run by the ``sentencepiece`` library: tokenizer.model files, and GGUF's ``llama`` model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
from sentencepiece import SentencePieceProcessor

from pyml_core.errors import quoted

from ..errors import ModelFileError
from . import model_proto
from .base import TextError, Tokenizer, TokenizerMetadata
from .decoding import SPACE, Decoding, DropPrefix, SentencePieceDecoding, byte_of
from .guard import first_line
from .model_proto import Spaces, without_dummy_prefix
from .special import SpecialTokens

SpacePrefix = Literal["always", "first", "never"]
"""Parts of a text, between special tokens, before which a model adds a space: all of them, the first one, none."""


def load_processor(model: bytes, label: str) -> SentencePieceProcessor:
    """Return the library's object for a serialised ModelProto.

    Raises:
        ModelFileError: the library refuses the model; the message has its reason.
    """
    processor = SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(model)
    except (RuntimeError, OSError, ValueError) as error:
        raise ModelFileError(f"{label}: refused by SentencePiece: {first_line(error)}") from error
    return processor


def checked_processor(model: bytes, label: str) -> tuple[SentencePieceProcessor, list[str], Spaces]:
    """Return the library's object for a ModelProto of an untrusted file, its pieces, and how it handles spaces.

    Raises:
        ModelFileError: the model is malformed, or has invalid scores or pieces.
    """
    spaces = model_proto.check(model, label)
    processor = load_processor(model, label)
    numbers = list(range(processor.get_piece_size()))
    scores = np.asarray(processor.get_score(numbers))
    if not np.isfinite(scores).all():
        raise ModelFileError(f"{label}: piece {int(np.flatnonzero(~np.isfinite(scores))[0])}: expected a finite score")
    try:
        pieces: list[str] = processor.id_to_piece(numbers)
    except UnicodeDecodeError as error:
        raise ModelFileError(f"{label}: expected pieces in UTF-8, got {quoted(error.object)}") from None
    model_proto.check_pieces(pieces, label)
    return processor, pieces, spaces


class PieceTokenizer(Tokenizer):
    """A tokenizer run by the ``sentencepiece`` library.

    Args:
        metadata: see :class:`TokenizerMetadata`.
        model: the serialised ModelProto.
        processor: the library's object for it.
        control: texts and ids of the tokens that are matched unless a text is to be read as plain text.
        added: texts and ids of the tokens that are matched in every text.
        texts: texts of tokens that the library does not know, or for which its own text is wrong, by id.
        space_prefix: see :data:`SpacePrefix`; without ``add_dummy_prefix`` the model adds no space at all.
        spaces: the model's handling of spaces.

    Attributes:
        control, added, texts, space_prefix, spaces: as given.
    """

    def __init__(
        self,
        metadata: TokenizerMetadata,
        model: bytes,
        processor: SentencePieceProcessor,
        *,
        control: Mapping[str, int],
        added: Mapping[str, int],
        texts: Mapping[int, str] | None = None,
        space_prefix: SpacePrefix = "always",
        spaces: Spaces,
    ) -> None:
        super().__init__(metadata)
        self.control, self.added, self.space_prefix, self.spaces = control, added, space_prefix, spaces
        self._processor = processor
        self._all = SpecialTokens({**added, **control})
        self._added = SpecialTokens(added)
        self._words = dict(added)
        self.texts = texts or {}
        self._drop_prefix: DropPrefix = "all" if spaces.remove_extra else "first" if spaces.add_dummy_prefix else "no"
        self._source = f"{sorted(control.items())} {sorted(added.items())} {space_prefix} {spaces}"
        self._size = processor.get_piece_size()
        self._plain = processor  # for parts that get no space before them
        if spaces.add_dummy_prefix and space_prefix != "always":
            self._plain = load_processor(without_dummy_prefix(model), metadata.kind)
        self._first = self._plain if space_prefix == "never" else processor

    def _encode(self, text: str, parse_special: bool, boundaries: Sequence[int]) -> list[int]:
        ids: list[int] = []
        encode: Callable[[str], list[int]] = self._first.encode_as_ids
        for part in (self._all if parse_special else self._added).split(text, boundaries):
            if isinstance(part, int):
                ids.append(part)
            else:
                try:
                    ids += encode(part)
                except (RuntimeError, ValueError) as error:
                    raise TextError(f"text: refused by SentencePiece: {first_line(error)}") from error
            encode = self._plain.encode_as_ids
        return ids

    def _added_words(self) -> Mapping[str, int]:
        return self._words

    @property
    def model(self) -> bytes:
        """The serialised ModelProto."""
        return bytes(self._processor.serialized_model_proto())

    def _content(self) -> bytes:
        return self.model + f"{sorted(self.texts.items())} {self._source}".encode()

    def _piece(self, number: int) -> str:
        text = self.texts.get(number)
        if text is not None:
            return text
        return str(self._processor.id_to_piece(number)) if number < self._size else ""

    def _is_byte(self, number: int) -> bool:
        return number < self._size and number not in self.texts and bool(self._processor.is_byte(number))

    def _token_bytes(self, number: int) -> bytes:
        piece = self._piece(number)
        byte = byte_of(piece) if self._is_byte(number) else None
        return piece.replace(SPACE, " ").encode() if byte is None else bytes([byte])

    def _decoding(self) -> Decoding:
        return SentencePieceDecoding(self._token_bytes, self._is_byte, self._drop_prefix)
