"""Requests that are probably wrong, made from valid ones and the tables of known fields."""

from __future__ import annotations

import copy
import json
import random
from typing import Any, NamedTuple

from pyml_nlp.openai.requests import CHAT_FIELDS, COMPLETION_FIELDS, HINTS
from tests.fuzz.changes import change, nested, noisy, odd

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA}}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": "b"}'}}
MESSAGES = [
    {"role": "system", "content": "be short"},
    {"role": "user", "content": [{"type": "text", "text": "the cat"}]},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "sat"},
    {"role": "user", "content": "and?", "name": "me"},
]
USER = [{"role": "user", "content": "the cat"}]

_SAMPLING = {
    "temperature": 0.7, "top_p": 0.9, "top_k": 5, "min_p": 0.05, "typical_p": 0.9, "repetition_penalty": 1.1,
    "frequency_penalty": 0.1, "presence_penalty": -0.1, "seed": 3, "logit_bias": {"5": -1, "7": 2.5},
    "stop": ["zzz"], "n": 1, "max_tokens": 3,
}  # fmt: skip
BODIES: dict[str, list[dict[str, Any]]] = {
    "/v1/chat/completions": [
        {"messages": USER, **_SAMPLING, "logprobs": True, "top_logprobs": 2},
        {"messages": MESSAGES, "max_tokens": 3, "tools": [TOOL], "tool_choice": "auto", "stream": True,
         "stream_options": {"include_usage": True}, "parallel_tool_calls": False},
        {"messages": USER, "max_completion_tokens": 3, "response_format": {"type": "json_object"}},
        {"messages": USER, "max_tokens": 3,
         "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}},
        {"messages": USER, "max_tokens": 3, "chat_template_kwargs": {"x": 1}, "reasoning_effort": "none",
         "continue_final_message": False, "structured_outputs": {"regex": "[ab]{1,3}"}},
    ],
    "/v1/completions": [
        {"prompt": "the cat", **_SAMPLING, "logprobs": 2, "best_of": 1},
        {"prompt": ["a", "b"], "max_tokens": 2, "stream": True, "stop_token_ids": [5]},
        {"prompt": [[5, 6], [7]], "max_tokens": 2, "echo": True, "logprobs": 1, "return_token_ids": True},
    ],
    "/v1/responses": [
        {"input": "the cat", "max_output_tokens": 3, "temperature": 0.5, "text": {"format": {"type": "text"}}},
        {"input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "the cat"}]},
                   {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a": "b"}'},
                   {"type": "function_call_output", "call_id": "c1", "output": "sat"}],
         "instructions": "be short", "max_output_tokens": 3, "stream": True,
         "tools": [{"type": "function", "name": "f", "parameters": SCHEMA}], "tool_choice": "auto"},
    ],
    "/v1/messages": [
        {"model": "default", "messages": USER, "max_tokens": 3, "system": "be short", "temperature": 0.5, "top_k": 3},
        {"model": "default", "max_tokens": 3, "stream": True, "stop_sequences": ["zzz"],
         "messages": [{"role": "user", "content": [{"type": "text", "text": "the cat"}]},
                      {"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": "f", "input": {}}]},
                      {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "sat"}]}],
         "tools": [{"name": "f", "description": "d", "input_schema": SCHEMA}], "tool_choice": {"type": "auto"}},
    ],
    "/v1/messages/count_tokens": [{"model": "default", "messages": USER}],
    "/v1/responses/input_tokens": [{"input": "the cat"}],
    "/v1/chat/completions/input_tokens": [{"messages": USER}],
    "/v1/embeddings": [{"input": ["the cat", "sat"], "encoding_format": "float"}, {"input": [5, 6]}],
    "/v1/score": [{"prompt": "the cat", "top_logprobs": 2}, {"prompt": [5, 6, 7]}],
    "/tokenize": [
        {"content": "the cat", "add_special": True, "with_pieces": True},
        {"prompt": "the cat", "add_special_tokens": False},
        {"messages": USER, "add_generation_prompt": True},
    ],
    "/detokenize": [{"tokens": [5, 6, 7]}],
    "/apply-template": [{"messages": MESSAGES, "tools": [TOOL], "chat_template_kwargs": {"x": 1}}],
    "/api/chat": [
        {"model": "default", "messages": USER, "stream": False, "options": {"num_predict": 3, "temperature": 0.5}},
        {"model": "default", "messages": USER, "options": {"num_predict": 3, "stop": ["zzz"]}, "tools": [TOOL],
         "format": SCHEMA, "keep_alive": "5m"},
    ],
    "/api/generate": [{"model": "default", "prompt": "the cat", "system": "x", "options": {"num_predict": 3}}],
    "/api/show": [{"model": "default"}],
    "/api/embed": [{"model": "default", "input": "the cat"}],
}  # fmt: skip
"""Valid bodies of each route that reads one, together with all fields whose values are checked."""

FIELDS = sorted(
    CHAT_FIELDS
    | COMPLETION_FIELDS
    | HINTS
    | {"functions", "chat_template", "suffix", "ignore_eos", "audio", "input", "instructions", "system", "thinking"}
    | {"max_output_tokens", "previous_response_id", "text", "reasoning", "format", "options", "keep_alive", "raw"}
    | {"content", "tokens", "parse_special", "with_pieces", "images", "template", "context", "think", "dimensions"}
)

_RAW = (
    b"", b"null", b"[]", b"3", b'"x"', b"true", b"{", b"{]", b"{'a': 1}", b'{"prompt": "x",}', b"\xff\xfe{}",
    b'\xef\xbb\xbf{"prompt": "x"}', b'{"prompt": "\xff"}', b'{"prompt": NaN}', b'{"max_tokens": Infinity}',
    b'{"a":' * 20000, b"[" * 100000, b'{"prompt": "x", "max_tokens": ' + b"9" * 5000 + b"}",
    b'{"prompt": "x", "prompt": 3}', b'{"messages": [], "messages": {}}', b"0" * 70000, b'{"prompt": "\\ud800"}',
)  # fmt: skip


class Hostile(NamedTuple):
    """A request: its path and body."""

    path: str
    body: bytes


def hostile(rng: random.Random) -> Hostile:
    """A request that is probably wrong. The texts it asks for are short, unless its limit is what was changed."""
    path = rng.choice([*BODIES, *list(BODIES)[:4]])
    if rng.random() < 0.05:
        return Hostile(path, rng.choice(_RAW))
    body: Any = copy.deepcopy(rng.choice(BODIES[path]))
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        how = rng.randrange(5)
        if how == 0 and isinstance(body, dict):
            body[rng.choice(FIELDS)] = nested(rng, rng.choice([1, 3, 63, 64, 200])) if rng.random() < 0.1 else odd(rng)
        elif how == 1 and isinstance(body, dict) and body:
            body[rng.choice(list(body))] = odd(rng)
        else:
            change(rng, body)
    text = json.dumps(body, ensure_ascii=rng.random() < 0.5)
    if rng.random() < 0.1:
        text = noisy(rng, text)
    if rng.random() < 0.05 and text.startswith("{"):
        text = text.replace("{", '{"max_tokens": "x", ', 1)  # probably a second time
    return Hostile(path, text.encode("utf-8", "surrogatepass"))
