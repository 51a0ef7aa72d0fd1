"""Tools for tests of calls, models with chat templates of formats of calls, and the client's side of a stream."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

jsonschema = pytest.importorskip("jsonschema")

BODY = "{% for m in messages %}[{{ m.role }}]{{ m.content + ';' }}{% endfor %}[assistant]"
SIGNS = {
    "hermes": "<tool_call>",
    "qwen3_coder": "<tool_call><parameter=",
    "mistral": "[TOOL_CALLS]",
    "functiongemma": "<start_function_call>",
    "phi4_mini": "functools[",
    "pythonic": "func_name1(",
    "llama": '"parameters": dictionary of argument name',
}
DIGIT = {"type": "integer", "minimum": 0, "maximum": 9}
ADD = {
    "type": "object",
    "properties": {"a": DIGIT, "b": DIGIT},
    "required": ["a", "b"],
    "additionalProperties": False,
}
NOTE = {
    "type": "object",
    "properties": {"text": {"type": "string", "maxLength": 6}, "sure": {"type": "boolean"}},
    "required": ["text", "sure"],
    "additionalProperties": False,
}
SCHEMAS = {"add": ADD, "note": NOTE}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": schema, "strict": True}}
    for name, schema in SCHEMAS.items()
]


def copied(source: Path, target: Path) -> None:
    """Copy a model, for longer texts."""
    shutil.copytree(source, target)
    config = json.loads((target / "config.json").read_text())
    config["max_position_embeddings"] = 2048
    (target / "config.json").write_text(json.dumps(config))


THINK = ("<think>", "</think>")
LATE = {
    "hermes": ("<tool_call>", "</tool_call>"),
    "qwen3_coder": ("<tool_call>", "</tool_call>"),
    "mistral": ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"),
    "functiongemma": ("<start_function_call>", "<end_function_call>", "<escape>"),
    "phi4_mini": ("<|tool_call|>", "<|/tool_call|>"),
    "granite": ("<|tool_call|>",),  # the format of Phi without its end
    "pythonic": ("<|tool_call_start|>", "<|tool_call_end|>"),
}


def with_tokens(source: Path, target: Path, markers: Sequence[str], special: bool) -> None:
    """Copy a model whose last words become markers."""
    copied(source, target)
    for name in ("vocab.json", "merges.txt"):
        (target / name).unlink()
    found = json.loads((target / "tokenizer.json").read_text())
    vocab, first = found["model"]["vocab"], len(found["model"]["vocab"]) - len(markers)
    gone = {word for word, number in vocab.items() if number >= first}
    found["model"]["vocab"] = {word: number for word, number in vocab.items() if number < first}
    merges = [one if isinstance(one, list) else one.split(" ") for one in found["model"]["merges"]]
    found["model"]["merges"] = [pair for pair in merges if not gone & {*pair, "".join(pair)}]
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": special}
    found["added_tokens"] += [{"id": first + n, "content": text, **plain} for n, text in enumerate(markers)]
    (target / "tokenizer.json").write_text(json.dumps(found))


def accumulated(chunks: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The choices of a stream, put together by the rules of OpenAI's clients."""
    found: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            one = found.setdefault(choice["index"], {"message": {}, "finish_reason": None, "logprobs": []})
            assert one["finish_reason"] is None
            one["finish_reason"] = choice["finish_reason"]
            one["logprobs"] += (choice["logprobs"] or {}).get("content", ())
            delta = dict(choice["delta"])
            calls = one["message"].setdefault("tool_calls", [])
            for call in delta.pop("tool_calls", ()):
                if call["index"] == len(calls):
                    assert call["function"]["arguments"] == ""
                    assert call["type"] == "function"
                    assert call["function"]["name"]
                    calls.append({"id": call["id"], "type": "function", "function": dict(call["function"])})
                else:
                    assert set(call) == {"index", "function"}
                    assert set(call["function"]) == {"arguments"}
                    assert call["function"]["arguments"]
                    calls[call["index"]]["function"]["arguments"] += call["function"]["arguments"]
            for key, text in delta.items():
                one["message"][key] = one["message"].get(key, "") + text
    return [found[index] for index in sorted(found)]


def functions(message: dict[str, Any]) -> list[tuple[str, str]]:
    calls = message.get("tool_calls") or []
    return [(call["function"]["name"], call["function"]["arguments"]) for call in calls]


def check(choice: dict[str, Any]) -> None:
    for name, arguments in functions(choice["message"]):
        jsonschema.validate(json.loads(arguments), SCHEMAS[name])
