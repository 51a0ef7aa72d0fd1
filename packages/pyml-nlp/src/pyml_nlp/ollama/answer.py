"""The answer to a request of Ollama's API: the objects of its stream, and the object that they build."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ..answer.joining import joined, parsed_arguments
from ..answer.parts import CallArguments, CallBegin, CallEnd, Part, ReasoningPart, TextPart

if TYPE_CHECKING:
    from ..generation.completion import Completion

Event = dict[str, Any]


class OllamaAnswer:
    """One answer. Parts are pushed as they come; what objects say together is what :meth:`whole` returns at the end.

    Args:
        model: the model's name.
        chat: whether texts are in ``message``; otherwise in ``response``.
    """

    def __init__(self, model: str, *, chat: bool) -> None:
        self._model = model
        self._chat = chat
        self._texts: dict[str, list[str]] = {"content": [], "thinking": []}
        self._calls: list[Event] = []
        self._name = ""  # of the call that is being written
        self._arguments: list[str] = []  # of it
        self._last: Event = {}

    def begin(self, completion: Completion) -> list[Event]:
        """Nothing comes before the first text."""
        return []

    def push(self, parts: Iterable[Part]) -> list[Event]:
        """The objects of parts that come together. A call comes as a whole; one that is cut off does not come."""
        found: list[Event] = []
        for part in joined(parts):
            match part:
                case TextPart(text):
                    found.append(self._text("content", text))
                case ReasoningPart(text):
                    found.append(self._text("thinking", text))
                case CallBegin(_, _, name):
                    self._name = name
                    self._arguments.clear()
                case CallArguments(_, text):
                    self._arguments.append(text)
                case CallEnd(index):
                    arguments = parsed_arguments("".join(self._arguments))
                    if arguments is not None and self._chat:
                        call = {"function": {"index": index, "name": self._name, "arguments": arguments}}
                        self._calls.append(call)
                        found.append(self._object({"content": "", "tool_calls": [call]}))
        return found

    def finish(
        self, parts: Iterable[Part], completion: Completion, reason: str, reasoning_tokens: int = 0
    ) -> list[Event]:
        """The last objects, at the end of the text.

        Args:
            parts: what was held back.
            completion: the text.
            reason: ``"stop"``, ``"length"`` or ``"tool_calls"``.
            reasoning_tokens: number of tokens of the reasoning; there is no field for it.
        """
        found = self.push(parts)
        ended = {"done": True, "done_reason": "length" if reason == "length" else "stop", **durations(completion)}
        self._last = ended
        return [*found, {**self._object({"content": ""}), **ended}]

    def loaded(self) -> Event:
        """The object for a request without a prompt: the model is there."""
        return {**self._object({"content": ""}), "done": True, "done_reason": "load"}

    def whole(self) -> dict[str, Any]:
        """The answer, after :meth:`finish`."""
        message: dict[str, Any] = {"content": "".join(self._texts["content"])}
        if self._texts["thinking"]:
            message["thinking"] = "".join(self._texts["thinking"])
        if self._calls:
            message["tool_calls"] = self._calls
        return {**self._object(message), **self._last}

    def _text(self, name: str, text: str) -> Event:
        self._texts[name].append(text)
        return self._object({"content": "", name: text})

    def _object(self, message: dict[str, Any]) -> Event:
        head = {"model": self._model, "created_at": now()}
        if self._chat:
            return {**head, "message": {"role": "assistant", **message}, "done": False}
        response = message.pop("content")
        return {**head, "response": response, **message, "done": False}


def now() -> str:
    """The time, as Ollama writes it."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def durations(completion: Completion) -> dict[str, int]:
    """Nanoseconds of the parts of a text that has ended, and its numbers of tokens."""
    ended = completion.ended_at or completion.submitted_at
    return {
        "total_duration": round(1e9 * (ended - completion.submitted_at)),
        "load_duration": 0,
        "prompt_eval_count": len(completion.prompt),
        "prompt_eval_duration": round(1e6 * completion.prefill_ms),
        "eval_count": len(completion.tokens),
        "eval_duration": round(1e6 * completion.decode_ms),
    }
