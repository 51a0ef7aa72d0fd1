"""Tokenizers run by the ``tokenizers`` library: built from checked parts, never from a file directly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import tokenizers

from pyml_core.errors import quoted
from pyml_core.locks import Lock, cached_property

from ..errors import ModelFileError
from . import byte_level
from .base import LONG_TEXT, TextError, Tokenizer, TokenizerMetadata, libraries
from .decoding import ByteDecoding, Decoding
from .guard import guarded
from .special import SpecialTokens

Merges = Sequence[tuple[str, str]]

MAX_KNOWN = 1 << 16
"""Most tokens whose bytes are kept."""


def build_bpe(vocab: dict[str, int], merges: Merges, label: str, **options: Any) -> tokenizers.models.BPE:
    """Return the library's model of a checked vocabulary.

    Raises:
        ModelFileError: a merge has an input or output outside the vocabulary (the first one is named), or the library
            refuses the vocabulary.
    """
    try:
        with guarded(label):
            return tokenizers.models.BPE(vocab=vocab, merges=merges, **options)
    except ModelFileError:
        _check_merges(merges, vocab, label)  # the library's message does not name the merge
        raise


def _check_merges(merges: Merges, vocab: Mapping[str, int], label: str) -> None:
    for number, (left, right) in enumerate(merges):
        for text in (left, right, left + right):
            if text not in vocab:
                pair = quoted(f"{left} {right}")
                raise ModelFileError(f"{label}: merge {number} {pair}: {quoted(text)} is not in the vocabulary")


class LibraryTokenizer(Tokenizer):
    """A tokenizer run by the ``tokenizers`` library.

    Args:
        metadata: see :class:`TokenizerMetadata`.
        engine: the library's object, without post-processor, truncation and padding.
        decoding: makes a decoding; None: byte-level.
        piece_bytes: returns the bytes of a token's text.
        texts: texts of tokens for which the library's own text is wrong, by id.
        source: the source of ``decoding`` and ``piece_bytes`` as text: the decoder of a tokenizer.json; empty: none.

    Attributes:
        texts, source: as given.
    """

    def __init__(
        self,
        metadata: TokenizerMetadata,
        engine: tokenizers.Tokenizer,
        decoding: Callable[[Callable[[int], str]], Decoding] | None = None,
        piece_bytes: Callable[[str], bytes] = byte_level.to_bytes,
        texts: Mapping[int, str] | None = None,
        source: str = "",
    ) -> None:
        super().__init__(metadata)
        self.source = source
        self._engine = engine
        self._make_decoding = decoding
        self._piece_bytes = piece_bytes
        self._known_bytes: dict[int, bytes] = {}  # perf: of tokens that have been decoded, which come again
        self.texts = texts or {}
        self._lock = Lock()  # protects the engine's switch for special tokens

    def _encode(self, text: str, parse_special: bool, boundaries: Sequence[int]) -> list[int]:
        spanned = self._control.spanned(text, boundaries) if boundaries and parse_special else []
        if spanned:
            return self._encode_apart(text, spanned)
        with libraries, self._lock, guarded("text", TextError):
            self._engine.encode_special_tokens = not parse_special
            return list(self._encoding(text).ids)

    def _encode_apart(self, text: str, boundaries: Sequence[int]) -> list[int]:
        """Encode a text in which no control token and no marker crosses these positions.

        The engine has no such option, but it splits text at control tokens: insert one at each position, and remove
        their ids from the result.
        """
        wedge = self._wedge
        pieces = [text[start:end] for start, end in pairwise((0, *boundaries, len(text)))]
        with libraries, self._lock, guarded("text", TextError):
            self._engine.encode_special_tokens = False
            encoding = self._encoding(wedge.join(pieces))
            pairs = zip(encoding.ids, encoding.offsets, strict=True)
        inserted = {(place + n * len(wedge), place + (n + 1) * len(wedge)) for n, place in enumerate(boundaries)}
        ids = [number for number, span in pairs if span not in inserted]
        if len(ids) + len(inserted) != len(encoding.ids):
            raise TextError("text: a control token in it cannot be read as plain text by this tokenizer")
        return ids

    def _encoding(self, text: str) -> tokenizers.Encoding:
        if len(text) <= LONG_TEXT:
            return self._engine.encode(text, add_special_tokens=False)
        return self._engine.encode_batch([text], add_special_tokens=False)[0]  # unlike encode, it releases the GIL

    @cached_property
    def _control(self) -> SpecialTokens:
        found = {**self.markers, **self.control_tokens}
        return SpecialTokens({text: number for text, number in found.items() if text})

    def _added_words(self) -> Mapping[str, int]:
        with guarded("tokenizer"):
            added = self._engine.get_added_tokens_decoder()
        return {token.content: number for number, token in added.items() if number not in self.special_ids}

    @cached_property
    def _wedge(self) -> str:
        """A control token that is matched anywhere in text and takes no surrounding spaces with it."""
        with guarded("text", TextError):
            for number, token in self._engine.get_added_tokens_decoder().items():
                plain = not (token.lstrip or token.rstrip or token.single_word or token.normalized)
                if number in self.special_ids and plain:
                    return str(token.content)
        raise TextError("text: this tokenizer has no way to read a control token as plain text")

    def document(self) -> str:
        """Return the library's own description of its object: the text of a tokenizer.json without decoder."""
        with libraries, self._lock, guarded("tokenizer"):
            return str(self._engine.to_str())

    def _content(self) -> bytes:
        return f"{self.document()} {sorted(self.texts.items())} {self.source}".encode()

    def _piece(self, number: int) -> str:
        return self.texts.get(number) or self._engine.id_to_token(number) or ""

    def _token_bytes(self, number: int) -> bytes:
        found = self._known_bytes.get(number)
        if found is None:
            found = self._piece_bytes(self._piece(number))
            if len(self._known_bytes) < MAX_KNOWN:
                self._known_bytes[number] = found
        return found

    def _decoding(self) -> Decoding:
        if self._make_decoding is None:
            return ByteDecoding(self._token_bytes)
        return self._make_decoding(self._piece)
