"""The answer to a request of Anthropic's Messages: its events, and the message that they build."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..answer.joining import joined, parsed_arguments
from ..answer.parts import CallArguments, CallBegin, CallEnd, Part, ReasoningPart, TextPart
from ..identifiers import hex_id

if TYPE_CHECKING:
    from ..generation.completion import Completion

Event = dict[str, Any]

_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


class MessageAnswer:
    """One message. Parts are pushed as they come; what events say together is what :meth:`whole` returns at the end.

    Args:
        model: the model's name.
    """

    def __init__(self, model: str) -> None:
        self._open: dict[str, Any] | None = None  # the last block, while it goes on
        self._pieces: list[str] = []  # of it
        self._message: dict[str, Any] = {
            "id": f"msg_{hex_id()}",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {},
        }

    def begin(self, completion: Completion) -> list[Event]:
        """The event before the first block. It is known by the first token how much of the prompt is reused."""
        self._message["usage"] = _usage(completion, 0)
        return [{"type": "message_start", "message": copy.deepcopy(self._message)}]

    def push(self, parts: Iterable[Part]) -> list[Event]:
        """The events of parts that come together."""
        found: list[Event] = []
        for part in joined(parts):
            match part:
                case TextPart(text):
                    found += self._block("text", text="")
                    found.append(self._delta("text_delta", "text", text))
                case ReasoningPart(text):
                    found += self._block("thinking", thinking="", signature="")
                    found.append(self._delta("thinking_delta", "thinking", text))
                case CallBegin(_, number, name):
                    found += self._close()
                    found += self._block("tool_use", id=number, name=name, input={})
                case CallArguments(_, text):
                    found.append(self._delta("input_json_delta", "partial_json", text))
                case CallEnd():  # not whether it is complete: the block is closed by what comes next
                    pass
        return found

    def finish(
        self, parts: Iterable[Part], completion: Completion, reason: str, reasoning_tokens: int = 0
    ) -> list[Event]:
        """The last events, at the end of the text.

        Args:
            parts: what was held back.
            completion: the text.
            reason: ``"stop"``, ``"length"`` or ``"tool_calls"``.
            reasoning_tokens: number of tokens of the reasoning; there is no field for it.
        """
        found = [*self.push(parts), *self._close()]
        stop = completion.stopped_by if reason == "stop" and isinstance(completion.stopped_by, str) else None
        ending = {"stop_reason": _REASONS[reason] if stop is None else "stop_sequence", "stop_sequence": stop}
        self._message |= ending
        self._message["usage"] = usage = _usage(completion, len(completion.tokens))
        # A call without all of its arguments cannot be made: its input is no object.
        content = self._message["content"]
        self._message["content"] = [block for block in content if block.get("input", {}) is not None]
        return [*found, {"type": "message_delta", "delta": ending, "usage": dict(usage)}, {"type": "message_stop"}]

    def whole(self) -> dict[str, Any]:
        """The message, after :meth:`finish`."""
        return self._message

    # ---- blocks

    @property
    def _index(self) -> int:
        return len(self._message["content"]) - 1

    def _block(self, kind: str, **fields: Any) -> list[Event]:
        """Begin a block, unless one of this kind is open that goes on."""
        if self._open is not None and self._open["type"] == kind:
            return []
        found = self._close()
        self._open = {"type": kind, **fields}
        self._message["content"].append(self._open)
        return [*found, {"type": "content_block_start", "index": self._index, "content_block": dict(self._open)}]

    def _delta(self, kind: str, name: str, text: str) -> Event:
        self._pieces.append(text)
        return {"type": "content_block_delta", "index": self._index, "delta": {"type": kind, name: text}}

    def _close(self) -> list[Event]:
        """End the open block."""
        block, text = self._open, "".join(self._pieces)
        if block is None:
            return []
        self._pieces.clear()
        self._open = None
        if block["type"] == "tool_use":
            block["input"] = parsed_arguments(text)
        else:
            block[block["type"]] = text
        return [{"type": "content_block_stop", "index": self._index}]


def _usage(completion: Completion, output: int) -> dict[str, int]:
    """The counts of tokens, of which those of the input exclude reused ones."""
    return {
        "input_tokens": len(completion.prompt) - completion.reused,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": completion.reused,
        "output_tokens": output,
    }
