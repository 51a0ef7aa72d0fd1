"""Which of several servers a request goes to: prompts that begin alike go to the same one, whose cache has them.

A server is chosen by rendezvous hashing, with a bound of its load: when servers come and go only their own prompts
move, and one popular prompt uses as many servers as it needs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from math import ceil
from typing import Any

BLOCK = 512
"""Characters of a prompt, or of the first message of a user, that count; later ones may differ."""

SHARED = 8192
"""Characters of tools and instructions that count."""

EXCESS = 1.25
"""How much more than its share of the running requests a server may have."""

_BEFORE = ("tools", "system", "instructions")  # of chats, in any dialect
_INSTRUCTING = ("system", "developer")


def prompt_key(body: Any, client: str = "") -> str:
    """The key of a request: equal for prompts that begin alike, and for all turns of a conversation.

    Args:
        body: of the request, in any of the APIs' forms.
        client: whose request it is: clients share no cache.

    Returns:
        A digest; empty: the request has no prompt.
    """
    if not isinstance(body, dict):
        return ""
    shared = [body[name] for name in _BEFORE if body.get(name)]
    first = body.get("prompt")
    messages = body.get("messages") or body.get("input")
    if isinstance(messages, list):
        first = None
        for message in messages:
            if not isinstance(message, dict):
                first = message
                break
            content = message.get("content")
            if message.get("role") not in _INSTRUCTING:
                first = content
                break
            shared.append(content)
    elif messages is not None:
        first = messages
    if first is None and not shared:
        return ""
    parts = (client, str(body.get("cache_salt") or ""), _text(shared, SHARED), _text(first, BLOCK))
    return blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def ranked(key: str, loads: Mapping[str, int], spare: int) -> list[str]:
    """Servers in the order in which they are asked to take a request.

    Args:
        key: of :func:`prompt_key`; empty: the least loaded server comes first.
        loads: running requests by name of the server.
        spare: running requests that a server may have in any case, before others must help.
    """
    if not loads:
        return []
    if not key:
        return sorted(loads, key=lambda name: (loads[name], name))
    order = sorted(loads, key=lambda name: _weight(key, name), reverse=True)
    bound = max(spare, ceil(EXCESS * (sum(loads.values()) + 1) / len(loads)))
    full = [name for name in order if loads[name] >= bound]
    return [name for name in order if loads[name] < bound] + sorted(full, key=lambda name: loads[name])


def _weight(key: str, name: str) -> bytes:
    return blake2b(f"{key}\0{name}".encode(), digest_size=8).digest()


def _text(value: Any, limit: int) -> str:
    """The beginning of a value as text; of long lists no more is written than counts."""
    if isinstance(value, str):
        return value[:limit]
    if isinstance(value, list):
        return json.dumps(_parts(value[:limit]), ensure_ascii=False)[:limit]
    return json.dumps(value, ensure_ascii=False)[:limit]


def _parts(values: Iterable[Any]) -> list[Any]:
    """Items of a list; parts of a message that are texts are only their texts."""
    return [one["text"] if isinstance(one, dict) and isinstance(one.get("text"), str) else one for one in values]
