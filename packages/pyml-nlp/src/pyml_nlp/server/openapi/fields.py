"""The fields that requests of several APIs share, as JSON schemas. Limits are those of the code that checks them."""

from __future__ import annotations

from ...openai.requests import MAX_CHOICES, MAX_PROMPTS, MAX_STOP, MAX_STOPS, MAX_TOP, MAX_VARIABLES
from ...openai.tool_use import MAX_TOOLS
from ...values import LARGEST_ID
from .forms import ANY, FLAG, OBJECT, TEXT, Schema, any_of, described, given, many, names, number, one_of, ref, whole

IDS: Schema = many(whole(0, LARGEST_ID), 1)
POSITIVE: Schema = {"type": "number", "exclusiveMinimum": 0}
_STOP: Schema = {"type": "string", "minLength": 1, "maxLength": MAX_STOP}
STOPS: Schema = any_of(_STOP, many(_STOP, 0, MAX_STOPS))
VARIABLES: Schema = {"type": "object", "maxProperties": MAX_VARIABLES}

SAMPLING: dict[str, Schema] = {
    "temperature": number(0, 2),
    "top_p": number(0, 1),
    "frequency_penalty": number(-2, 2),
    "presence_penalty": number(-2, 2),
    "top_k": whole(-1),
    "min_p": number(0, 1),
    "typical_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
    "repetition_penalty": POSITIVE,
    "repeat_penalty": POSITIVE,
    "seed": whole(-(1 << 63), (1 << 64) - 1),
    "logit_bias": {"type": "object", "additionalProperties": number(-100, 100)},
}
"""How tokens are chosen."""

_LENGTH: dict[str, Schema] = {
    "max_tokens": whole(1),
    "max_completion_tokens": whole(1),
    "stop": STOPS,
    "stop_token_ids": many(whole(0, LARGEST_ID)),
    "include_stop_str_in_output": FLAG,
    "ignore_eos": FLAG,
}
_FORM: dict[str, Schema] = {
    "response_format": ref("ResponseFormat"),
    "structured_outputs": ref("StructuredOutputs"),
    "return_token_ids": FLAG,
}
_STREAM: dict[str, Schema] = {
    "stream": FLAG,
    "stream_options": given({}, {"include_usage": FLAG, "continuous_usage_stats": FLAG, "include_obfuscation": FLAG}),
    "timings_per_token": FLAG,
    "return_progress": FLAG,
}
_SERVER: dict[str, Schema] = {
    "model": TEXT,
    "n": whole(1, MAX_CHOICES),
    "timeout": described(POSITIVE, "Seconds until the answer must be complete."),
    "cache_salt": described(TEXT, "Prompts with other salts share nothing with this one."),
}
_HINT = "Has no effect."
HINTS: dict[str, Schema] = {
    "user": described(ANY, _HINT),
    "safety_identifier": described(ANY, _HINT),
    "metadata": described(ANY, _HINT),
    "store": described(ANY, _HINT),
    "service_tier": described(ANY, _HINT),
    "verbosity": described(ANY, _HINT),
    "prediction": described(ANY, _HINT),
    "prompt_cache_key": described(ANY, _HINT),
    "prompt_cache_retention": described(ANY, _HINT),
    "priority": described(ANY, _HINT),
}
_TEMPLATE: dict[str, Schema] = {
    "reasoning_effort": TEXT,
    "chat_template_kwargs": VARIABLES,
    "continue_final_message": FLAG,
    "add_generation_prompt": FLAG,
    "documents": many(OBJECT),
}
_TOOLS: dict[str, Schema] = {
    "tools": many(ref("Tool"), 1, MAX_TOOLS),
    "tool_choice": ref("ToolChoice"),
    "parallel_tool_calls": FLAG,
}
_SHARED = {**SAMPLING, **_LENGTH, **_FORM, **_STREAM, **_SERVER}

CHAT: dict[str, Schema] = {
    **_SHARED,
    **_TEMPLATE,
    **_TOOLS,
    "logprobs": FLAG,
    "top_logprobs": whole(0, MAX_TOP),
    **HINTS,
    "modalities": many(one_of("text")),
}
"""The optional fields of a chat request."""

COMPLETION: dict[str, Schema] = {
    **{name: schema for name, schema in _SHARED.items() if name != "max_completion_tokens"},
    "max_tokens": whole(0),
    "echo": FLAG,
    "best_of": whole(1),
    "logprobs": whole(0, MAX_TOP),
    **HINTS,
}
"""The optional fields of a completion request."""

PROMPTS: Schema = any_of(TEXT, IDS, many(TEXT, 1, MAX_PROMPTS), many(IDS, 1, MAX_PROMPTS))

EXTENSIONS = names(CHAT, (*SAMPLING, "timeout", "cache_salt", "chat_template_kwargs"))
"""The fields of chat requests that requests of other APIs may have as well."""

REQUEST_PARTS: dict[str, Schema] = {
    "Message": given(
        {"role": one_of("system", "developer", "user", "assistant", "tool")},
        {
            "content": any_of(TEXT, many(given({"type": one_of("text"), "text": TEXT}))),
            "name": TEXT,
            "tool_call_id": TEXT,
            "tool_calls": many(ref("ToolCall")),
            "reasoning_content": TEXT,
        },
    ),
    "ToolCall": given(
        {"function": given({"name": TEXT, "arguments": any_of(TEXT, OBJECT)})}, {"id": TEXT, "type": TEXT}
    ),
    "Tool": given(
        {
            "type": one_of("function"),
            "function": given(
                {"name": {"type": "string", "pattern": "^[A-Za-z0-9_.:/-]{1,128}$"}},
                {"description": TEXT, "parameters": OBJECT, "strict": FLAG},
            ),
        }
    ),
    "ToolChoice": any_of(
        one_of("none", "auto", "required"),
        given({"type": one_of("function"), "function": given({"name": TEXT})}),
        given(
            {
                "type": one_of("allowed_tools"),
                "allowed_tools": given(
                    {"tools": many(given({"type": one_of("function"), "function": given({"name": TEXT})}), 1)},
                    {"mode": one_of("auto", "required")},
                ),
            }
        ),
    ),
    "ResponseFormat": any_of(
        given({"type": one_of("text")}),
        given({"type": one_of("json_object")}, {"schema": OBJECT}),
        given(
            {
                "type": one_of("json_schema"),
                "json_schema": given({"schema": OBJECT}, {"name": TEXT, "description": TEXT, "strict": FLAG}),
            }
        ),
    ),
    "StructuredOutputs": {
        **given({}, {"json": any_of(OBJECT, TEXT), "regex": TEXT, "choice": many(TEXT, 1), "grammar": TEXT}),
        "maxProperties": 1,
        "minProperties": 1,
    },
}
"""Schemas of parts of requests, by name."""
