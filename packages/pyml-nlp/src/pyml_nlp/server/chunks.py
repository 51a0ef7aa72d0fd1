"""The chunks of a stream of OpenAI's API as events. Those of plain text, nearly all, are filled into a template."""

from __future__ import annotations

from collections.abc import Iterable
from json.encoder import encode_basestring
from typing import TYPE_CHECKING, Any

from .bodies import compact
from .sse import event

if TYPE_CHECKING:
    from ..openai.answers import Head

_EMPTY = b'"choices":[]'


class Chunks:
    """Encodes the chunks of one answer.

    Args:
        head: of the answer.
        usage: whether chunks have a ``usage``, which is null in all but the last one.
    """

    def __init__(self, head: Head, usage: bool) -> None:
        self._head = head
        before, after = event(head.chunk([], **({"usage": None} if usage else {}))).split(_EMPTY)
        self._before, self._after = before + _EMPTY[:-1], b"]" + after

    def __call__(self, choices: Iterable[dict[str, Any]]) -> bytes:
        """Events of choices, each in a chunk of its own."""
        return b"".join([b"%b%b%b" % (self._before, _encoded(choice), self._after) for choice in choices])

    def usage(self, counts: dict[str, Any]) -> bytes:
        """The event of the last chunk: the counts of tokens."""
        return event(self._head.chunk([], usage=counts))


def _encoded(choice: dict[str, Any]) -> bytes:
    """A choice as JSON."""
    if choice["logprobs"] is None and choice["finish_reason"] is None:
        text, delta = choice.get("text"), choice.get("delta", ())
        if text is not None:
            return b'{"index":%d,"text":%b,"logprobs":null,"finish_reason":null}' % (choice["index"], _text(text))
        if len(delta) == 1 and "content" in delta:
            return b'{"index":%d,"delta":{"content":%b},"logprobs":null,"finish_reason":null}' % (
                choice["index"],
                _text(delta["content"]),
            )
    return compact(choice)


def _text(text: str) -> bytes:
    return encode_basestring(text).encode()
