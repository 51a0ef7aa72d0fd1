"""From ids back to text, one id at a time, so that streamed pieces joined are the whole text by construction.

A stage takes the text of a token and gives the texts that are certain by now; what it holds back comes with
``flush``. The stages are those of the ``tokenizers`` library (its ``decoders``), made to stream; SentencePiece has
its own rules.
"""

from __future__ import annotations

import codecs
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from encodings.utf_8 import IncrementalDecoder as _Utf8
from typing import Literal

SPACE = "▁"
"""What SentencePiece writes for a space: U+2581."""

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def byte_of(piece: str) -> int | None:
    """The byte that a piece such as ``<0x0A>`` stands for; None for any other piece."""
    found = _BYTE_PIECE.fullmatch(piece)
    return int(found[1], 16) if found else None


def _replace_each_byte(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "\ufffd" * (error.end - error.start), error.end


codecs.register_error("pyml_each_byte", _replace_each_byte)


def _decoded(decoder: codecs.BufferedIncrementalDecoder, data: bytes) -> str:
    """Text that is complete with these bytes."""
    return decoder.decode(data) if decoder.buffer or not data.isascii() else data.decode()


class Decoding(ABC):
    """The decoding of one sequence of ids."""

    @abstractmethod
    def push(self, number: int) -> str:
        """The text that is certain with this id."""

    @abstractmethod
    def flush(self) -> str:
        """The text that was held back, at the end."""


class ByteDecoding(Decoding):
    """Tokens are bytes: a character is given out when its last byte is there.

    Bytes that are no UTF-8 become U+FFFD: one for each maximal part of a character, as Rust's ``from_utf8_lossy`` has
    it.
    """

    def __init__(self, token_bytes: Callable[[int], bytes]) -> None:
        self._token_bytes = token_bytes
        self._utf8 = _Utf8("replace")

    def push(self, number: int) -> str:
        return _decoded(self._utf8, self._token_bytes(number))

    def flush(self) -> str:
        return self._utf8.decode(b"", final=True)


DropPrefix = Literal["no", "first", "all"]


class SentencePieceDecoding(Decoding):
    """SentencePiece's rules: bytes make characters, or one U+FFFD each; the space before the text goes.

    Source: google/sentencepiece, ``SentencePieceProcessor::Decode``.

    Args:
        token_bytes: the bytes of a token, spaces as spaces.
        is_byte: whether a token is a byte piece.
        drop_prefix: whether the space that encoding puts before a text is taken away again: from the first piece, or
            from every piece until there is text.
    """

    def __init__(
        self, token_bytes: Callable[[int], bytes], is_byte: Callable[[int], bool], drop_prefix: DropPrefix
    ) -> None:
        self._token_bytes = token_bytes
        self._is_byte = is_byte
        self._drop: DropPrefix = drop_prefix
        self._utf8 = _Utf8("pyml_each_byte")

    def push(self, number: int) -> str:
        data = self._token_bytes(number)
        if self._drop != "no":
            if not self._is_byte(number) and data.startswith(b" "):
                data = data[1:]
                self._drop = "all" if self._drop == "all" and not data else "no"
            elif data:
                self._drop = "no"
        return _decoded(self._utf8, data)

    def flush(self) -> str:
        return self._utf8.decode(b"", final=True)


class Stage(ABC):
    """One decoder of a tokenizer.json."""

    fuses = False
    """Whether its output is one text rather than tokens."""

    @abstractmethod
    def push(self, token: str) -> Iterable[str]:
        """What is certain with this token."""

    def flush(self) -> Iterable[str]:
        """What was held back."""
        return ()


class Replace(Stage):
    """Every ``old`` in a token becomes ``new``."""

    def __init__(self, old: str, new: str) -> None:
        self._old, self._new = old, new

    def push(self, token: str) -> Iterable[str]:
        return (token.replace(self._old, self._new),)


class ByteFallback(Stage):
    """A run of byte tokens becomes its text; if it is no UTF-8 as a whole, one U+FFFD for each of its bytes."""

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
    """From here on it is one text."""

    fuses = True

    def push(self, token: str) -> Iterable[str]:
        return (token,)


class StripStart(Stage):
    """Takes ``character`` from the beginning up to ``count`` times: of the text if it is fused, else of each token."""

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
    """``replacement`` becomes a space; in the first token it goes if encoding has put one there."""

    def __init__(self, replacement: str, drop_first: bool) -> None:
        self._replacement = replacement
        self._drop = drop_first

    def push(self, token: str) -> Iterable[str]:
        space = "" if self._drop else " "
        self._drop = False
        return (token.replace(self._replacement, space),)


class ByteLevel(Stage):
    """Characters that stand for bytes become those bytes' text (see :mod:`.byte_level`)."""

    fuses = True

    def __init__(self, to_bytes: Callable[[str], bytes]) -> None:
        self._to_bytes = to_bytes
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: str) -> Iterable[str]:
        return (self._utf8.decode(self._to_bytes(token)),)

    def flush(self) -> Iterable[str]:
        return (self._utf8.decode(b"", final=True),)


class SpaceBetween(Stage):
    """No decoder at all: a space between any two tokens."""

    def __init__(self) -> None:
        self._first = True

    def push(self, token: str) -> Iterable[str]:
        if self._first:
            self._first = False
            return (token,)
        return (" ", token)


class ChainDecoding(Decoding):
    """Stages one after the other."""

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
