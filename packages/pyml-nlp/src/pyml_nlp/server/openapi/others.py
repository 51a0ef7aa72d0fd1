"""The APIs of Anthropic and Ollama, as JSON schemas."""

from __future__ import annotations

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

# ---- Anthropic

_TEXT_BLOCK = given({"type": one_of("text"), "text": TEXT})
_BLOCKS = any_of(
    _TEXT_BLOCK,
    given({"type": one_of("tool_use"), "id": TEXT, "name": TEXT, "input": OBJECT}),
    given({"type": one_of("tool_result"), "tool_use_id": TEXT}, {"content": any_of(TEXT, many(_TEXT_BLOCK))}),
    given({"type": one_of("thinking"), "thinking": TEXT}),
    given({"type": one_of("redacted_thinking")}),
)
_MESSAGES_FIELDS: dict[str, Schema] = {
    **fields.EXTENSIONS,
    "model": TEXT,
    "system": any_of(TEXT, many(_TEXT_BLOCK)),
    "stop_sequences": fields.STOPS,
    "stream": FLAG,
    "tools": many(given({"name": TEXT, "input_schema": OBJECT}, {"type": TEXT, "description": TEXT, "strict": FLAG})),
    "tool_choice": any_of(
        given({"type": one_of("auto", "any", "none")}, {"disable_parallel_tool_use": FLAG}),
        given({"type": one_of("tool"), "name": TEXT}, {"disable_parallel_tool_use": FLAG}),
    ),
    "thinking": given({"type": one_of("enabled", "adaptive", "disabled")}, {"budget_tokens": whole()}),
    "output_config": given({}, {"effort": TEXT, "format": OBJECT}),
    "metadata": OBJECT,
    "service_tier": TEXT,
}
_TURNS = many(given({"role": one_of("user", "assistant", "system"), "content": any_of(TEXT, many(_BLOCKS))}), 1)
_BLOCK = any_of(
    made({"type": one_of("text"), "text": TEXT}),
    made({"type": one_of("thinking"), "thinking": TEXT, "signature": TEXT}),
    made({"type": one_of("tool_use"), "id": TEXT, "name": TEXT, "input": OBJECT}),
)
_USAGE = made(
    {
        "input_tokens": COUNT,
        "cache_creation_input_tokens": COUNT,
        "cache_read_input_tokens": COUNT,
        "output_tokens": COUNT,
    }
)

ANTHROPIC: dict[str, Schema] = {
    "MessagesRequest": given({"messages": _TURNS, "max_tokens": whole(1)}, _MESSAGES_FIELDS),
    "MessagesCount": given({"messages": _TURNS}, {**_MESSAGES_FIELDS, "max_tokens": whole(1)}),
    "MessagesAnswer": made(
        {
            "id": TEXT,
            "type": one_of("message"),
            "role": one_of("assistant"),
            "model": TEXT,
            "content": many(_BLOCK),
            "stop_reason": one_of("end_turn", "max_tokens", "stop_sequence", "tool_use"),
            "stop_sequence": nullable(TEXT),
            "usage": _USAGE,
        }
    ),
    "MessagesEvent": given(
        {
            "type": one_of(
                "message_start",
                "content_block_start",
                "content_block_delta",
                "content_block_stop",
                "message_delta",
                "message_stop",
                "ping",
                "error",
            )
        }
    ),
    "MessagesTokens": made({"input_tokens": COUNT}),
    "MessagesError": made({"type": one_of("error"), "error": made({"type": TEXT, "message": TEXT})}),
}
"""Schemas of Anthropic's Messages."""

# ---- Ollama

_OPTIONS = given(
    {},
    {
        **{name: fields.SAMPLING[name] for name in fields.SAMPLING if name not in ("logit_bias", "repetition_penalty")},
        "seed": whole(-1, (1 << 64) - 1),
        "stop": fields.STOPS,
        "num_predict": any_of(whole(1), {"type": "integer", "enum": [-1, -2]}),
        "num_ctx": whole(),
    },
)
_OLLAMA_FIELDS: dict[str, Schema] = {
    "model": TEXT,
    "stream": FLAG,
    "format": any_of(one_of("", "json"), OBJECT),
    "think": any_of(FLAG, one_of("none", "minimal", "low", "medium", "high", "max")),
    "options": _OPTIONS,
    "keep_alive": any_of(TEXT, NUMBER),
    "timeout": fields.POSITIVE,
    "chat_template_kwargs": fields.VARIABLES,
}
_OLLAMA_CALL = given({"function": given({"name": TEXT}, {"arguments": any_of(TEXT, OBJECT)})}, {"id": TEXT})
_OLLAMA_HEAD: dict[str, Schema] = {"model": TEXT, "created_at": TEXT, "done": FLAG}
_OLLAMA_END: dict[str, Schema] = {
    "done_reason": one_of("stop", "length", "load"),
    "total_duration": COUNT,
    "load_duration": COUNT,
    "prompt_eval_count": COUNT,
    "prompt_eval_duration": COUNT,
    "eval_count": COUNT,
    "eval_duration": COUNT,
}
_MADE_CALL = made({"function": made({"index": COUNT, "name": TEXT, "arguments": OBJECT})})

_DETAILS = made(
    {
        "parent_model": TEXT,
        "format": TEXT,
        "family": TEXT,
        "families": many(TEXT),
        "parameter_size": TEXT,
        "quantization_level": TEXT,
    }
)
_OLLAMA_MODEL: dict[str, Schema] = {"name": TEXT, "model": TEXT, "size": COUNT, "digest": TEXT, "details": _DETAILS}

OLLAMA: dict[str, Schema] = {
    "OllamaChatRequest": given(
        {},
        {
            **_OLLAMA_FIELDS,
            "messages": many(
                given(
                    {"role": one_of("system", "user", "assistant", "tool")},
                    {
                        "content": TEXT,
                        "thinking": TEXT,
                        "tool_calls": many(_OLLAMA_CALL),
                        "tool_name": TEXT,
                        "tool_call_id": TEXT,
                    },
                )
            ),
            "tools": many(ref("Tool"), 0),
        },
    ),
    "OllamaChatAnswer": made(
        {
            **_OLLAMA_HEAD,
            "message": made(
                {"role": one_of("assistant"), "content": TEXT}, {"thinking": TEXT, "tool_calls": many(_MADE_CALL, 1)}
            ),
        },
        _OLLAMA_END,
    ),
    "OllamaGenerateRequest": given({}, {**_OLLAMA_FIELDS, "prompt": TEXT, "system": TEXT, "raw": FLAG}),
    "OllamaGenerateAnswer": made({**_OLLAMA_HEAD, "response": TEXT}, {"thinking": TEXT, **_OLLAMA_END}),
    "OllamaModels": made(
        {
            "models": many(
                made(
                    _OLLAMA_MODEL,
                    {"modified_at": TEXT, "expires_at": TEXT, "size_vram": COUNT, "context_length": COUNT},
                )
            )
        }
    ),
    "OllamaEmbedRequest": given(
        {}, {"model": TEXT, "input": any_of(TEXT, many(ANY)), "truncate": FLAG, "dimensions": whole(1)}
    ),
    "OllamaEmbeddings": made(
        {
            "model": TEXT,
            "embeddings": many(many(NUMBER)),
            "total_duration": COUNT,
            "load_duration": COUNT,
            "prompt_eval_count": COUNT,
        }
    ),
    "OllamaPromptRequest": given({}, {"model": TEXT, "prompt": TEXT}),
    "OllamaEmbedding": made({"embedding": many(NUMBER)}),
    "OllamaName": given({}, {"model": TEXT, "name": TEXT}),
    "OllamaModel": made(
        {
            "modelfile": TEXT,
            "parameters": TEXT,
            "template": TEXT,
            "details": _DETAILS,
            "model_info": OBJECT,
            "capabilities": many(TEXT),
            "modified_at": TEXT,
        }
    ),
    "OllamaVersion": made({"version": TEXT, "pyml": TEXT}),
    "OllamaError": made({"error": TEXT}),
}
"""Schemas of Ollama's API."""
