"""The answer to a request of OpenAI's Responses: its events, and the response that they build."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..answer.joining import joined
from ..answer.parts import CallArguments, CallBegin, CallEnd, Part, ReasoningPart, TextPart
from ..identifiers import hex_id
from . import answers

if TYPE_CHECKING:
    from ..generation.completion import Completion
    from .requests import Common
    from .responses_request import ResponsesRequest

Event = dict[str, Any]

_PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc"}


class ResponseAnswer:
    """One response. Parts are pushed as they come; what events say together is what :meth:`whole` returns at the end.

    Args:
        request: as asked.
        common: of the chat request.
        model: the model's name.
    """

    def __init__(self, request: ResponsesRequest, common: Common, model: str) -> None:
        self._sequence = 0
        self._item: dict[str, Any] | None = None  # the open one, the last of the output
        self._pieces: list[str] = []  # of its text
        sampling = common.options.sampling
        self._body: dict[str, Any] = {
            "id": f"resp_{hex_id(32)}",
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "background": False,
            "error": None,
            "incomplete_details": None,
            "model": model,
            "output": [],
            "previous_response_id": None,
            "service_tier": "default",
            "store": False,
            "temperature": sampling.temperature,
            "top_p": 1.0 if sampling.top_p is None else sampling.top_p,
            "top_logprobs": 0,
            "usage": None,
            **request.echoed,
        }

    # ---- events

    def begin(self, completion: Completion) -> list[Event]:
        """The events before the first token of a text."""
        kinds = ("response.created", "response.in_progress")
        return [self._event(kind, response=copy.deepcopy(self._body)) for kind in kinds]

    def push(self, parts: Iterable[Part]) -> list[Event]:
        """The events of parts that come together."""
        found: list[Event] = []
        for part in joined(parts):
            match part:
                case TextPart(text):
                    found += self._open("message")
                    found.append(self._delta("output_text", text, content_index=0, logprobs=[]))
                case ReasoningPart(text):
                    found += self._open("reasoning")
                    found.append(self._delta("reasoning_text", text, content_index=0))
                case CallBegin(_, number, name):
                    found += self._close("completed")
                    found += self._open("function_call", call_id=number, name=name, arguments="")
                case CallArguments(_, text):
                    found.append(self._delta("function_call_arguments", text))
                case CallEnd():  # not whether it is complete: the item is closed by what comes next
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
            reasoning_tokens: number of tokens of the reasoning.
        """
        status = "incomplete" if reason == "length" else "completed"
        found = self.push(parts)
        if not self._body["output"]:
            found += self._open("message")
        found += self._close(status)
        if reason == "length":
            self._body["incomplete_details"] = {"reason": "max_output_tokens"}
        self._body["usage"] = response_usage(completion, reasoning_tokens)
        self._body["pyml"] = answers.own_fields([completion])["pyml"]
        return [*found, *self._end(status)]

    def fail(self, message: str) -> list[Event]:
        """The last event, of an answer that an error ends."""
        self._body["error"] = {"code": "server_error", "message": message}
        return self._end("failed")

    def whole(self) -> dict[str, Any]:
        """The response so far; after :meth:`finish`, all of it."""
        return self._body

    def _end(self, status: str) -> list[Event]:
        self._body["status"] = status
        if status == "completed":
            self._body["completed_at"] = int(time.time())
        return [self._event(f"response.{status}", response=copy.deepcopy(self._body))]

    def _event(self, kind: str, **fields: Any) -> Event:
        event = {"type": kind, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        return event

    # ---- items

    def _open(self, kind: str, **fields: Any) -> list[Event]:
        """Begin an item, unless one of this kind is open that goes on."""
        if self._item is not None and self._item["type"] == kind:
            return []
        found = self._close("completed")
        item: dict[str, Any] = {"id": f"{_PREFIXES[kind]}_{hex_id(32)}", "type": kind}
        if kind == "message":
            item |= {"role": "assistant", "content": []}
        elif kind == "reasoning":
            item |= {"summary": [], "content": []}
        self._item = item = {**item, **fields, "status": "in_progress"}
        self._body["output"].append(item)
        found.append(self._event("response.output_item.added", output_index=self._index, item=copy.deepcopy(item)))
        if kind == "message":
            found.append(self._event("response.content_part.added", **self._place, content_index=0, part=_text("")))
        return found

    def _delta(self, kind: str, text: str, **fields: Any) -> Event:
        self._pieces.append(text)
        return self._event(f"response.{kind}.delta", **self._place, delta=text, **fields)

    def _close(self, status: str) -> list[Event]:
        """End the open item."""
        item, text, found = self._item, "".join(self._pieces), list[Event]()
        if item is None:
            return found
        self._pieces.clear()
        place = self._place
        if item["type"] == "message":
            part = _text(text)
            item["content"] = [part]
            found.append(self._event("response.output_text.done", **place, content_index=0, text=text, logprobs=[]))
            found.append(self._event("response.content_part.done", **place, content_index=0, part=dict(part)))
        elif item["type"] == "reasoning":
            item["content"] = [{"type": "reasoning_text", "text": text}]
            found.append(self._event("response.reasoning_text.done", **place, content_index=0, text=text))
        else:
            item["arguments"] = text
            found.append(
                self._event("response.function_call_arguments.done", **place, name=item["name"], arguments=text)
            )
        item["status"] = status
        found.append(self._event("response.output_item.done", output_index=self._index, item=copy.deepcopy(item)))
        self._item = None
        return found

    @property
    def _index(self) -> int:
        return len(self._body["output"]) - 1

    @property
    def _place(self) -> dict[str, Any]:
        assert self._item is not None  # an item is open
        return {"item_id": self._item["id"], "output_index": self._index}


def _text(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def response_usage(completion: Completion, reasoning_tokens: int) -> dict[str, Any]:
    """The counts of tokens."""
    found = answers.usage([completion], 1, reasoning_tokens)
    return {
        "input_tokens": found["prompt_tokens"],
        "input_tokens_details": {**found["prompt_tokens_details"], "cache_write_tokens": 0},
        "output_tokens": found["completion_tokens"],
        "output_tokens_details": found["completion_tokens_details"],
        "total_tokens": found["total_tokens"],
    }
