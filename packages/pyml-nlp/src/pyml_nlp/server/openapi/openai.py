"""OpenAI's chat completions, completions and Responses, as JSON schemas."""

from __future__ import annotations

from ...openai.requests import MAX_TOP
from . import fields
from .forms import (
    ANY,
    COUNT,
    FLAG,
    NUMBER,
    OBJECT,
    TEXT,
    Schema,
    any_of,
    given,
    made,
    many,
    nullable,
    one_of,
    ref,
    whole,
)

_HEAD = {"id": TEXT, "object": TEXT, "created": COUNT, "model": TEXT, "system_fingerprint": TEXT}
_OWN = {"timings": ref("Timings"), "pyml": ref("Own")}
_FINISH = one_of("stop", "length", "tool_calls")
_TOKEN_IDS = {"token_ids": many(COUNT)}
_CALL = made({"id": TEXT, "type": one_of("function"), "function": made({"name": TEXT, "arguments": TEXT})})
_REASONING = {"reasoning_content": TEXT, "reasoning": TEXT}
_CALL_DELTA = made(
    {"index": COUNT, "function": made({"arguments": TEXT}, {"name": TEXT})}, {"id": TEXT, "type": one_of("function")}
)
_ENTRY = {"token": TEXT, "logprob": NUMBER, "bytes": many(whole(0, 255))}

_CHAT: dict[str, Schema] = {
    "ChatRequest": given({"messages": many(ref("Message"), 1)}, fields.CHAT),
    "ChatAnswer": made({**_HEAD, "choices": many(ref("ChatChoice")), "usage": ref("Usage"), **_OWN}),
    "ChatChoice": made(
        {
            "index": COUNT,
            "message": made(
                {"role": one_of("assistant"), "content": nullable(TEXT), "refusal": {"type": "null"}},
                {"tool_calls": many(_CALL, 1), **_REASONING},
            ),
            "logprobs": nullable(ref("ChatLogprobs")),
            "finish_reason": _FINISH,
        },
        _TOKEN_IDS,
    ),
    "ChatLogprobs": made(
        {"content": many(made({**_ENTRY, "top_logprobs": many(made(_ENTRY), 0, MAX_TOP)})), "refusal": {"type": "null"}}
    ),
    "ChatChunk": made(
        {**_HEAD, "choices": many(ref("ChatChunkChoice"), 0, 1)},
        {"usage": nullable(ref("Usage")), **_OWN, "prompt_progress": ref("Progress")},
    ),
    "ChatChunkChoice": made(
        {
            "index": COUNT,
            "delta": made(
                {},
                {"role": one_of("assistant"), "content": TEXT, "tool_calls": many(_CALL_DELTA, 1, 1), **_REASONING},
            ),
            "logprobs": nullable(ref("ChatLogprobs")),
            "finish_reason": any_of(_FINISH, {"type": "null"}),
        },
        _TOKEN_IDS,
    ),
}

_COMPLETION_CHOICE: dict[str, Schema] = {"index": COUNT, "text": TEXT, "logprobs": nullable(ref("CompletionLogprobs"))}
_COMPLETION: dict[str, Schema] = {
    "CompletionRequest": given({"prompt": fields.PROMPTS}, fields.COMPLETION),
    "CompletionAnswer": made({**_HEAD, "choices": many(ref("CompletionChoice")), "usage": ref("Usage"), **_OWN}),
    "CompletionChoice": made({**_COMPLETION_CHOICE, "finish_reason": one_of("stop", "length")}, _TOKEN_IDS),
    "CompletionChunk": made(
        {**_HEAD, "choices": many(ref("CompletionChunkChoice"), 0, 1)},
        {"usage": nullable(ref("Usage")), **_OWN, "prompt_progress": ref("Progress")},
    ),
    "CompletionChunkChoice": made(
        {**_COMPLETION_CHOICE, "finish_reason": any_of(one_of("stop", "length"), {"type": "null"})}, _TOKEN_IDS
    ),
    "CompletionLogprobs": made(
        {
            "tokens": many(TEXT),
            "token_logprobs": many(nullable(NUMBER)),
            "top_logprobs": many(nullable({"type": "object", "additionalProperties": NUMBER})),
            "text_offset": many(COUNT),
        }
    ),
}

_TIMES = {
    f"{part}_{name}": COUNT if name == "n" else NUMBER
    for part in ("prompt", "predicted")
    for name in ("n", "ms", "per_token_ms", "per_second")
}
_SHARED: dict[str, Schema] = {
    "Usage": made(
        {
            "prompt_tokens": COUNT,
            "completion_tokens": COUNT,
            "total_tokens": COUNT,
            "prompt_tokens_details": made({"cached_tokens": COUNT}),
            "completion_tokens_details": made({"reasoning_tokens": COUNT}),
        }
    ),
    "Timings": made({"cache_n": COUNT, **_TIMES}),
    "Own": made({"seeds": many(nullable(COUNT)), "queue_ms": NUMBER, "drafted": COUNT, "accepted": COUNT}),
    "Progress": made({"total": COUNT, "cache": COUNT, "processed": COUNT, "time_ms": COUNT}),
    "InputTokens": made({"object": one_of("response.input_tokens"), "input_tokens": COUNT}),
}

_TEXT_PART = given({"type": one_of("input_text", "output_text", "text"), "text": TEXT})
_CONTENT = any_of(TEXT, many(_TEXT_PART))
_ITEMS = any_of(
    given(
        {"role": one_of("user", "assistant", "system", "developer"), "content": _CONTENT}, {"type": one_of("message")}
    ),
    given({"type": one_of("function_call"), "call_id": TEXT, "name": TEXT, "arguments": TEXT}),
    given({"type": one_of("function_call_output"), "call_id": TEXT, "output": _CONTENT}),
    given(
        {"type": one_of("reasoning")}, {"content": many(given({"text": TEXT})), "summary": many(given({"text": TEXT}))}
    ),
)
_FORMAT = any_of(
    given({"type": one_of("text", "json_object")}),
    given({"type": one_of("json_schema"), "schema": OBJECT}, {"name": TEXT, "description": TEXT, "strict": FLAG}),
)
_STATUS = one_of("in_progress", "completed", "incomplete", "failed")
_OUTPUT_TEXT = made({"type": one_of("output_text"), "text": TEXT, "annotations": many(ANY), "logprobs": many(ANY)})
_OUTPUT = any_of(
    made(
        {
            "id": TEXT,
            "type": one_of("message"),
            "role": one_of("assistant"),
            "content": many(_OUTPUT_TEXT),
            "status": _STATUS,
        }
    ),
    made(
        {
            "id": TEXT,
            "type": one_of("reasoning"),
            "summary": many(ANY),
            "content": many(made({"type": one_of("reasoning_text"), "text": TEXT})),
            "status": _STATUS,
        }
    ),
    made(
        {
            "id": TEXT,
            "type": one_of("function_call"),
            "call_id": TEXT,
            "name": TEXT,
            "arguments": TEXT,
            "status": _STATUS,
        }
    ),
)
_RESPONSES: dict[str, Schema] = {
    "ResponsesRequest": given(
        {"input": any_of(TEXT, many(_ITEMS, 1))},
        {
            **fields.EXTENSIONS,
            "model": TEXT,
            "instructions": TEXT,
            "max_output_tokens": whole(1),
            "stream": FLAG,
            "stop": fields.STOPS,
            "tools": many(
                given({"type": TEXT}, {"name": TEXT, "description": TEXT, "parameters": OBJECT, "strict": FLAG})
            ),
            "tool_choice": any_of(one_of("none", "auto", "required"), OBJECT),
            "parallel_tool_calls": FLAG,
            "reasoning": given({}, {"effort": TEXT}),
            "text": given({}, {"format": _FORMAT}),
            "include": many(TEXT),
            "store": FLAG,
            "metadata": OBJECT,
        },
    ),
    "Response": given(
        {
            "id": TEXT,
            "object": one_of("response"),
            "created_at": COUNT,
            "status": _STATUS,
            "error": nullable(OBJECT),
            "incomplete_details": nullable(OBJECT),
            "model": TEXT,
            "output": many(_OUTPUT),
            "store": FLAG,
            "usage": nullable(ref("ResponseUsage")),
            "instructions": nullable(TEXT),
            "metadata": OBJECT,
            "parallel_tool_calls": FLAG,
            "temperature": NUMBER,
            "top_p": NUMBER,
            "tools": many(OBJECT),
        }
    ),
    "ResponseUsage": made(
        {
            "input_tokens": COUNT,
            "input_tokens_details": made({"cached_tokens": COUNT, "cache_write_tokens": COUNT}),
            "output_tokens": COUNT,
            "output_tokens_details": made({"reasoning_tokens": COUNT}),
            "total_tokens": COUNT,
        }
    ),
    "ResponseEvent": given({"type": {"type": "string", "pattern": r"^response\."}, "sequence_number": COUNT}),
}

SCHEMAS: dict[str, Schema] = {**_CHAT, **_COMPLETION, **_RESPONSES, **_SHARED}
"""By name."""
