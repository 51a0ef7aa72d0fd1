"""Tokenizers that the ``tokenizers`` library runs: built here from checked parts, never from a file directly.

The library is Rust: faults in its input can be a panic, which is a ``BaseException``, so that every call into it is
guarded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from pyml_core.errors import PymlError, quoted
from pyml_core.locks import Lock, cached_property
from pyml_core.strings import split_pairs

from ..errors import ModelFileError
from . import byte_level
from .base import LONG_TEXT, MAX_TOKEN_LENGTH, MAX_TOKENS, Facts, TextError, Tokenizer, libraries
from .decoding import ByteDecoding, Decoding
from .special import SpecialTokens

if TYPE_CHECKING:
    import tokenizers

Merges = Sequence[tuple[str, str]]


@contextmanager
def guarded(what: str, error_type: type[PymlError] = ModelFileError) -> Iterator[None]:
    """Whatever the library raises, a panic too, becomes one line that begins with ``what``."""
    try:
        yield
    except PymlError:
        raise
    except Exception as error:
        raise error_type(f"{what}: {first_line(error)}") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise error_type(f"{what}: {first_line(error)}") from None


def first_line(error: BaseException) -> str:
    """The first line of an error's text, bounded and printable."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
    return line if line.isprintable() else ascii(line)[1:-1]


def check_vocab(vocab: Mapping[str, Any], what: str) -> None:
    """Refuse a vocabulary with ids that are no integers, out of range or there twice.

    Raises:
        ModelFileError: names the first wrong entry.
    """
    if not 0 < len(vocab) <= MAX_TOKENS:
        raise ModelFileError(f"{what}: expected a vocabulary of 1 to {MAX_TOKENS} tokens, got {len(vocab)}")
    if set(map(type, vocab.values())) != {int} or min(vocab.values()) < 0 or max(vocab.values()) >= MAX_TOKENS:
        text, number = next((t, n) for t, n in vocab.items() if type(n) is not int or not 0 <= n < MAX_TOKENS)
        raise ModelFileError(
            f"{what}: token {quoted(text)}: expected an id from 0 to {MAX_TOKENS - 1}, got {quoted(number)}"
        )
    longest = max(vocab, key=len)
    if len(longest) > MAX_TOKEN_LENGTH:
        raise ModelFileError(
            f"{what}: token {vocab[longest]}: expected at most {MAX_TOKEN_LENGTH} characters, got {len(longest)}"
        )
    if len(set(vocab.values())) != len(vocab):
        by_id: dict[int, str] = {}
        first, second = next((by_id[n], t) for t, n in vocab.items() if by_id.setdefault(n, t) != t)
        raise ModelFileError(
            f"{what}: expected one token an id, got {quoted(first)} and {quoted(second)} with {vocab[first]}"
        )


def split_merges(lines: list[Any], what: str) -> list[tuple[str, str]]:
    """Pairs from "left right" lines or from lists of two.

    Raises:
        ModelFileError: names the first line that is neither.
    """
    pairs = split_pairs(lines)
    if len(pairs) < len(lines):
        number = len(pairs)
        raise ModelFileError(
            f"{what}: merge {number}: expected two tokens with a space between them, got {quoted(lines[number])}"
        )
    return pairs


def build_bpe(vocab: dict[str, int], merges: Merges, what: str, **options: Any) -> tokenizers.models.BPE:
    """The library's model of a checked vocabulary.

    Raises:
        ModelFileError: names the first merge of or into something that is no token; or anything else that the library
            refuses.
    """
    from tokenizers import models

    try:
        with guarded(what):
            return models.BPE(vocab=vocab, merges=merges, **options)
    except ModelFileError:
        _check_merges(merges, vocab, what)  # the library says less
        raise


def _check_merges(merges: Merges, vocab: Mapping[str, int], what: str) -> None:
    for number, (left, right) in enumerate(merges):
        for text in (left, right, left + right):
            if text not in vocab:
                pair = quoted(f"{left} {right}")
                raise ModelFileError(f"{what}: merge {number} {pair}: {quoted(text)} is not in the vocabulary")


class LibraryTokenizer(Tokenizer):
    """A tokenizer that the ``tokenizers`` library runs.

    Args:
        facts: see :class:`Facts`.
        engine: the library's object, without post-processor, truncation and padding.
        decoding: makes a decoding; None: byte-level.
        token_bytes: bytes of a token; None: byte-level.
        texts: tokens whose text is not what the library says, in place of that.
        source: what ``decoding`` and ``piece_bytes`` were made from, as text.
    """

    def __init__(
        self,
        facts: Facts,
        engine: tokenizers.Tokenizer,
        decoding: Callable[[Callable[[int], str]], Decoding] | None = None,
        piece_bytes: Callable[[str], bytes] = byte_level.to_bytes,
        texts: Mapping[int, str] | None = None,
        source: str = "",
    ) -> None:
        super().__init__(facts)
        self._source = source
        self._engine = engine
        self._make_decoding = decoding
        self._piece_bytes = piece_bytes
        self._texts = texts or {}
        self._lock = Lock()  # the engine's switch for special tokens is a state of the engine

    def _encode(self, text: str, parse_special: bool, breaks: Sequence[int]) -> list[int]:
        spanned = self._control.spanned(text, breaks) if breaks and parse_special else []
        if spanned:
            return self._encode_apart(text, spanned)
        with libraries, self._lock, guarded("text", TextError):
            self._engine.encode_special_tokens = not parse_special
            return list(self._encoding(text).ids)

    def _encode_apart(self, text: str, breaks: Sequence[int]) -> list[int]:
        """Ids of a text in which no token spans these places.

        The engine cannot be told so. But it cuts text at control tokens: one is put in at each place, and taken out
        of the ids again.
        """
        wedge = self._wedge
        pieces = [text[start:end] for start, end in pairwise((0, *breaks, len(text)))]
        with libraries, self._lock, guarded("text", TextError):
            self._engine.encode_special_tokens = False
            encoding = self._encoding(wedge.join(pieces))
            pairs = zip(encoding.ids, encoding.offsets, strict=True)
        inserted = {(place + n * len(wedge), place + (n + 1) * len(wedge)) for n, place in enumerate(breaks)}
        ids = [number for number, span in pairs if span not in inserted]
        if len(ids) + len(inserted) != len(encoding.ids):
            raise TextError("text: a control token in it cannot be read as plain text by this tokenizer")
        return ids

    def _encoding(self, text: str) -> tokenizers.Encoding:
        if len(text) <= LONG_TEXT:
            return self._engine.encode(text, add_special_tokens=False)
        return self._engine.encode_batch([text], add_special_tokens=False)[0]  # which lets go of the GIL

    @cached_property
    def _control(self) -> SpecialTokens:
        return SpecialTokens({text: number for text, number in self.control_tokens.items() if text})

    @cached_property
    def _wedge(self) -> str:
        """A control token that is found wherever it stands, and that takes no spaces with it."""
        with guarded("text", TextError):
            for number, token in self._engine.get_added_tokens_decoder().items():
                plain = not (token.lstrip or token.rstrip or token.single_word or token.normalized)
                if number in self.special_ids and plain:
                    return str(token.content)
        raise TextError("text: this tokenizer has no way to read a control token as plain text")

    def _content(self) -> bytes:
        with libraries, self._lock, guarded("tokenizer"):
            return f"{self._engine.to_str()} {sorted(self._texts.items())} {self._source}".encode()

    def _piece(self, number: int) -> str:
        return self._texts.get(number) or self._engine.id_to_token(number) or ""

    def _token_bytes(self, number: int) -> bytes:
        return self._piece_bytes(self._piece(number))

    def _decoding(self) -> Decoding:
        if self._make_decoding is None:
            return ByteDecoding(self._recent_bytes)
        return self._make_decoding(self._piece)
