"""Markers of formats, such as ``<tool_call>``: tokens of the vocabulary, or plain text where there is no such token.

A marker that is a token becomes one character, a lone surrogate, which decoded text never contains. So text that only
spells the marker is not mistaken for it, and what reads the answer needs no other notation for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ..tokenizer import Tokenizer

_FIRST = 0xDC00


class Decoder(Protocol):
    """Turns tokens into text as its characters become complete."""

    def push(self, token: int, /) -> str:
        """The characters that this token completes."""
        ...

    def flush(self) -> str:
        """The characters that are held back."""
        ...


class Marks:
    """The markers of a format in a vocabulary.

    Args:
        tokenizer: of the model.
        spellings: the markers.

    Attributes:
        ids: token -> its spelling; markers that are plain text have none.
        codes: token -> the character that stands for it.
    """

    def __init__(self, tokenizer: Tokenizer, spellings: Iterable[str]) -> None:
        self.ids: dict[int, str] = {}
        self.codes: dict[int, str] = {}
        self._searched: dict[str, str] = {}
        for spelling in dict.fromkeys(spellings):
            token = token_of(tokenizer, spelling)
            self._searched[spelling] = spelling
            if token is not None:
                self.ids[token] = spelling
                self.codes[token] = self._searched[spelling] = chr(_FIRST + len(self.codes))

    def __getitem__(self, spelling: str) -> str:
        """What stands for the marker in what a :class:`MarkReader` returns."""
        return self._searched.get(spelling, spelling)

    def token(self, spelling: str) -> int | None:
        """The id of a marker; None: it is plain text."""
        return next((token for token, text in self.ids.items() if text == spelling), None)


def token_of(tokenizer: Tokenizer, spelling: str) -> int | None:
    """The control token or added token with this spelling; None: there is none."""
    token = tokenizer.control_tokens.get(spelling)
    if token is not None:
        return token
    ids = tokenizer.encode(spelling, add_special=False, parse_special=False)
    if len(ids) != 1 or tokenizer.token_bytes(ids[0]) != spelling.encode():
        return None
    # An added token is found next to letters, too; a word of the vocabulary might not be.
    around = tokenizer.encode(f"a{spelling}a{spelling}", add_special=False, parse_special=False)
    return ids[0] if around.count(ids[0]) == 2 else None


class MarkReader:
    """Puts markers that are tokens into the text that arrives with the tokens.

    Args:
        marks: the markers.
        decoder: like the one that makes the text.
        hidden: tokens that have no characters in the text.
        ends: tokens that end the text and have no characters.

    The text may come later than its tokens, where it may begin a stop string, or a character is incomplete.
    """

    def __init__(self, marks: Marks, decoder: Decoder, hidden: Collection[int], ends: Collection[int]) -> None:
        self._marks = marks
        self._decoder = decoder
        self._ends = ends
        self._hidden = hidden
        self._text = ""  # characters that have not been returned
        self._returned = 0  # number of those that have
        self._decoded = 0  # characters of all tokens
        self._waiting: deque[tuple[int, int, str]] = deque()  # begin and end of a marker in the text, its character

    @property
    def spellings(self) -> Mapping[int, str]:
        """Table for ``str.translate``, from characters of markers to what the text has in their place."""
        return {
            ord(self._marks.codes[token]): "" if token in self._hidden else spelling
            for token, spelling in self._marks.ids.items()
        }

    def push(self, token: int, text: str) -> str:
        """Return the characters that are certain after one more token, with markers."""
        if not self._marks.ids:
            return text
        self._text += text
        if token not in self._ends:
            self._decode(token)
        return self._release()

    def finish(self) -> str:
        """Return the rest."""
        found = self._release()
        rest, self._text = self._text, ""
        return found + rest

    def _decode(self, token: int) -> None:
        piece = self._decoder.push(token)
        spelling = self._marks.ids.get(token)
        if spelling is None:
            self._decoded += len(piece)
            return
        if token in self._hidden:
            piece, spelling = piece + self._decoder.flush(), ""
        self._decoded += len(piece)
        begin = max(self._returned, self._decoded - len(spelling))
        self._waiting.append((begin, max(begin, self._decoded), self._marks.codes[token]))

    def _release(self) -> str:
        found: list[str] = []
        while self._waiting:
            begin, end, code = self._waiting[0]
            if self._returned + len(self._text) < end:
                break
            found += (self._text[: begin - self._returned], code)
            self._text = self._text[end - self._returned :]
            self._returned = end
            self._waiting.popleft()
        size = len(self._text)
        if self._waiting:
            size = min(size, max(0, self._waiting[0][0] - self._returned))
        found.append(self._text[:size])
        self._text = self._text[size:]
        self._returned += size
        return "".join(found)
