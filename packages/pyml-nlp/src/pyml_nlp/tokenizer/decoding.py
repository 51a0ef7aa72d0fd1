"""Decoding of token ids, one at a time: streamed pieces joined are the whole text by construction.

A stage takes the text of a token and returns the texts that later tokens cannot change; ``flush`` returns the rest.
The stages are streaming versions of the ``tokenizers`` library's ``decoders``. SentencePiece has rules of its own.
"""

from __future__ import annotations

import codecs
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

SPACE = "▁"
"""SentencePiece's character for a space: U+2581."""

_Utf8Decoder = codecs.getincrementaldecoder("utf-8")
_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def byte_of(piece: str) -> int | None:
    """Return the byte that a piece such as ``<0x0A>`` stands for; None for any other piece."""
    found = _BYTE_PIECE.fullmatch(piece)
    return int(found[1], 16) if found else None


def _replace_each_byte(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "\ufffd" * (error.end - error.start), error.end


codecs.register_error("pyml_each_byte", _replace_each_byte)


class Decoding(ABC):
    """Decodes one sequence of ids."""

    @abstractmethod
    def push(self, number: int) -> str:
        """Return the text that this id completes."""

    @abstractmethod
    def flush(self) -> str:
        """Return the held-back text at the end of the sequence."""


class ByteDecoding(Decoding):
    """Joins the bytes of tokens and returns each character once its last byte has arrived.

    Invalid UTF-8 becomes U+FFFD, one for each maximal part of a character, as in Rust's ``from_utf8_lossy``.
    """

    def __init__(self, token_bytes: Callable[[int], bytes]) -> None:
        self._token_bytes = token_bytes
        self._utf8 = _Utf8Decoder("replace")

    def push(self, number: int) -> str:
        return self._utf8.decode(self._token_bytes(number))

    def flush(self) -> str:
        return self._utf8.decode(b"", final=True)


DropPrefix = Literal["no", "first", "all"]


class SentencePieceDecoding(Decoding):
    """SentencePiece's rules: byte pieces form characters, or one U+FFFD each; the space before the text is removed.

    Source: google/sentencepiece, ``SentencePieceProcessor::Decode``.

    Args:
        token_bytes: the bytes of a token, with plain spaces.
        is_byte: whether a token is a byte piece.
        drop_prefix: where the space that encoding adds before a text is removed again: never, from the first piece,
            or from every piece until there is text.
    """

    def __init__(
        self, token_bytes: Callable[[int], bytes], is_byte: Callable[[int], bool], drop_prefix: DropPrefix
    ) -> None:
        self._token_bytes = token_bytes
        self._is_byte = is_byte
        self._drop: DropPrefix = drop_prefix
        self._utf8 = _Utf8Decoder("pyml_each_byte")

    def push(self, number: int) -> str:
        data = self._token_bytes(number)
        if self._drop != "no":
            if not self._is_byte(number) and data.startswith(b" "):
                data = data[1:]
                self._drop = "all" if self._drop == "all" and not data else "no"
            elif data:
                self._drop = "no"
        return self._utf8.decode(data)

    def flush(self) -> str:
        return self._utf8.decode(b"", final=True)


class Stage(ABC):
    """One step of a tokenizer.json's decoder."""

    fuses = False
    """Whether its output is one text rather than separate tokens."""

    @abstractmethod
    def push(self, token: str) -> Iterable[str]:
        """Return the texts that this token completes."""

    def flush(self) -> Iterable[str]:
        """Return the held-back texts at the end of the sequence."""
        return ()


class Replace(Stage):
    """Replaces every ``old`` in a token by ``new``."""

    def __init__(self, old: str, new: str) -> None:
        self._old, self._new = old, new

    def push(self, token: str) -> Iterable[str]:
        return (token.replace(self._old, self._new),)


class ByteFallback(Stage):
    """Turns a run of byte tokens into text; an invalid run becomes one U+FFFD for each of its bytes."""

    def __init__(self) -> None:
        self._run = bytearray()

    def push(self, token: str) -> Iterable[str]:
        byte = byte_of(token)
        if byte is None:
            return (*self.flush(), token)
        self._run.append(byte)
        return ()

    def flush(self) -> Iterable[str]:
        run, self._run = self._run, bytearray()
        if not run:
            return ()
        try:
            return (run.decode(),)
        except UnicodeDecodeError:
            return ("\ufffd" * len(run),)


class Fuse(Stage):
    """Joins all tokens into one text for the following stages."""

    fuses = True

    def push(self, token: str) -> Iterable[str]:
        return (token,)


class StripStart(Stage):
    """Removes up to ``count`` times ``character`` from the start: of the text if it is fused, else of each token."""

    def __init__(self, character: str, count: int, fused: bool) -> None:
        self._character, self._count, self._fused = character, count, fused
        self._left = count

    def push(self, token: str) -> Iterable[str]:
        if not self._fused:
            self._left = self._count
        kept = token
        while self._left and kept.startswith(self._character):
            kept = kept[1:]
            self._left -= 1
        if kept:
            self._left = 0
        return (kept,)


class Metaspace(Stage):
    """Replaces ``replacement`` by a space; in the first token it is removed if encoding added it."""

    def __init__(self, replacement: str, drop_first: bool) -> None:
        self._replacement = replacement
        self._drop = drop_first

    def push(self, token: str) -> Iterable[str]:
        space = "" if self._drop else " "
        self._drop = False
        return (token.replace(self._replacement, space),)


class ByteLevel(Stage):
    """Decodes characters that stand for bytes (see :mod:`.byte_level`)."""

    fuses = True

    def __init__(self, to_bytes: Callable[[str], bytes]) -> None:
        self._to_bytes = to_bytes
        self._utf8 = _Utf8Decoder("replace")

    def push(self, token: str) -> Iterable[str]:
        return (self._utf8.decode(self._to_bytes(token)),)

    def flush(self) -> Iterable[str]:
        return (self._utf8.decode(b"", final=True),)


class SpaceBetween(Stage):
    """Puts a space between any two tokens: the rule for a tokenizer.json without a decoder."""

    def __init__(self) -> None:
        self._first = True

    def push(self, token: str) -> Iterable[str]:
        if self._first:
            self._first = False
            return (token,)
        return (" ", token)


_CLEANUP = (
    (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m"),
    (" do not", " don't"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"),
)  # fmt: skip


class WordPiece(Stage):
    """Joins the pieces of words, and puts a space between words; ``cleanup`` takes it away before punctuation."""

    def __init__(self, prefix: str, cleanup: bool) -> None:
        self._prefix, self._cleanup = prefix, cleanup
        self._first = True

    def push(self, token: str) -> Iterable[str]:
        if not self._first:
            token = token.removeprefix(self._prefix) if token.startswith(self._prefix) else " " + token
        self._first = False
        for old, new in _CLEANUP if self._cleanup else ():
            token = token.replace(old, new)
        return (token,)


class ChainDecoding(Decoding):
    """Runs stages in sequence."""

    def __init__(self, piece: Callable[[int], str], stages: Sequence[Stage]) -> None:
        self._piece = piece
        self._stages = stages

    def push(self, number: int) -> str:
        return self._through((self._piece(number),), 0)

    def flush(self) -> str:
        return "".join(self._through(tuple(stage.flush()), number + 1) for number, stage in enumerate(self._stages))

    def _through(self, tokens: Iterable[str], first: int) -> str:
        for stage in self._stages[first:]:
            tokens = [out for token in tokens for out in stage.push(token)]
        return "".join(tokens)
