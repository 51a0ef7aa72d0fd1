"""Messages in the form that a chat template takes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

_SHORT = re.compile(r"[A-Za-z0-9]{9}")


def with_system(messages: Any) -> Any:
    """Messages with the role ``system`` in place of ``developer``."""
    return _changed(
        messages, lambda message: {**message, "role": "system"} if message.get("role") == "developer" else message
    )


def with_short_ids(messages: Any) -> Any:
    """Messages in which every id of a call has nine letters and digits, which Mistral's templates require."""

    def shortened(message: Mapping[str, Any]) -> Mapping[str, Any]:
        found = dict(message)
        if isinstance(message.get("tool_call_id"), str):
            found["tool_call_id"] = short_id(message["tool_call_id"])
        calls = message.get("tool_calls")
        if isinstance(calls, list):
            found["tool_calls"] = [
                {**call, "id": short_id(call["id"])}
                if isinstance(call, Mapping) and isinstance(call.get("id"), str)
                else call
                for call in calls
            ]
        return found

    return _changed(messages, shortened)


def short_id(name: str) -> str:
    """An id of nine letters and digits for any other one."""
    return name if _SHORT.fullmatch(name) else hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:9]


def _changed(messages: Any, change: Any) -> Any:
    """Each message changed; malformed ones are returned as they are, for the chat template to refuse."""
    if isinstance(messages, str) or not isinstance(messages, Sequence):
        return messages
    return [change(message) if isinstance(message, Mapping) else message for message in messages]
