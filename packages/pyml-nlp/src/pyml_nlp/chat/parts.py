"""Contents of messages as lists of parts, as clients of OpenAI's API send them.

A list of texts stays one for a template that iterates over it (Gemma 3's does); other templates get one text, with a
line break between two parts, as from llama.cpp and vLLM. Images, audio and files are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyml_core.errors import quoted

from ..errors import ChatTemplateError

_TEXTS = ("text", "input_text", "output_text", "refusal")
_OTHERS = {
    "image": "images", "image_url": "images", "input_image": "images", "audio": "audio", "input_audio": "audio",
    "audio_url": "audio", "video": "videos", "video_url": "videos", "file": "files", "input_file": "files",
}  # fmt: skip
_FREE = ("tool", "function", "ipython")
"""Roles whose content may be any list: it is the result of a function."""


def check_parts(message: dict[str, Any], where: str) -> None:
    """Turn the content of a message, if it is a list, into parts ``{"type": "text", "text": ...}``, in place.

    Raises:
        ChatTemplateError: a part that is no text.
    """
    content = message.get("content")
    if not isinstance(content, list):
        return
    if message["role"] in _FREE and not (content and all(_is_part(part) for part in content)):
        return
    message["content"] = [_part(part, f"{where}.content[{number}]") for number, part in enumerate(content)]


def has_parts(messages: list[dict[str, Any]]) -> bool:
    """Whether a message has a list of parts."""
    return any(_parts(message) for message in messages)


def join_parts(messages: list[dict[str, Any]]) -> None:
    """Replace lists of parts by one text each, in place."""
    for message in messages:
        if _parts(message):
            message["content"] = "\n".join(part["text"] for part in message["content"])


def _parts(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    return isinstance(content, list) and all(_is_part(part) for part in content)


def _is_part(part: object) -> bool:
    return isinstance(part, Mapping) and part.get("type") in (*_TEXTS, *_OTHERS)


def _part(part: object, where: str) -> dict[str, str]:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if isinstance(kind, str) and kind in _OTHERS:
        raise ChatTemplateError(f"{where}: {_OTHERS[kind]} are not supported, only parts of type text")
    text = part.get("refusal" if kind == "refusal" else "text") if isinstance(part, Mapping) else None
    if kind not in _TEXTS or not isinstance(text, str):
        raise ChatTemplateError(f"{where}: expected a part such as {{'type': 'text', 'text': ...}}, got {quoted(part)}")
    return {"type": "text", "text": text}
