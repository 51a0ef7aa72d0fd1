"""The text of an answer as it arrives, for readers that are written as if all of it were there.

A reader is a generator: it yields where it needs more characters, and goes on when there are some.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TypeVar

T = TypeVar("T")
Reading = Generator[None, None, T]

SPACE = " \t\r\n"


class NotACall(Exception):
    """What has been read is no call."""


class Source:
    """The text so far, and the place up to which it has been read.

    Attributes:
        text: what is left of the text.
        at: the place in it.
        ended: whether no more characters come.
    """

    def __init__(self) -> None:
        self.text = ""
        self.at = 0
        self.ended = False
        self._held: int | None = None

    def feed(self, text: str) -> None:
        """Add characters."""
        kept = self.at if self._held is None else self._held
        self.text = self.text[kept:] + text
        self.at -= kept
        self._held = None if self._held is None else 0

    # ---- what may have to become content

    def hold(self) -> None:
        """Keep the characters from here on, and forget earlier ones."""
        self._held = self.at

    def release(self) -> str:
        """The characters since :meth:`hold`, which are not kept any longer; none if nothing is held."""
        held = "" if self._held is None else self.text[self._held : self.at]
        self._held = None
        return held

    # ---- reading

    def peek(self) -> Reading[str]:
        """The next character; empty at the end of the text."""
        while self.at == len(self.text):
            if self.ended:
                return ""
            yield
        return self.text[self.at]

    def skip_space(self) -> Reading[str]:
        """Go to the next character that is no white space, and return it; empty at the end."""
        while True:
            found = yield from self.peek()
            if not found or found not in SPACE:
                return found
            self.at += 1

    def skip(self, word: str) -> Reading[bool]:
        """Go past a word if it comes next; otherwise stay."""
        while not self.text.startswith(word, self.at):
            rest = self.text[self.at :]
            if self.ended or not word.startswith(rest):
                return False
            yield
        self.at += len(word)
        return True

    def expect(self, *words: str) -> Reading[str]:
        """Go past the first of these words that comes next, and return it.

        Raises:
            NotACall: none of them does.
        """
        for word in words:
            if (yield from self.skip(word)):
                return word
        raise NotACall

    def until(self, stops: Sequence[str], limit: int) -> Reading[str]:
        """Return the characters before the first of these words, and go there.

        Raises:
            NotACall: there is none within ``limit`` characters, or before the end.
        """
        searched = self.at
        longest = max(map(len, stops))
        while True:
            places = [place for stop in stops if (place := self.text.find(stop, searched)) >= 0]
            if places:
                found = self.text[self.at : min(places)]
                self.at += len(found)
                return found
            if self.ended or len(self.text) - self.at > limit:
                raise NotACall
            back = max(self.at, len(self.text) - longest + 1) - self.at
            yield
            searched = self.at + back  # the place may have moved


def partial(text: str, start: int, words: Sequence[str]) -> int:
    """How many characters at the end of a text, from ``start`` on, may begin one of these words."""
    most = max(map(len, words), default=1) - 1
    for size in range(min(most, len(text) - start), 0, -1):
        end = text[len(text) - size :]
        if any(word.startswith(end) for word in words):
            return size
    return 0
