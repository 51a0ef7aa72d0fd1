"""The routes about models, tokens, requests and the server's state, as JSON schemas."""

from __future__ import annotations

from ...values import LARGEST_ID
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

_ID = {"tokens": many(COUNT)}
_MODEL = {"model": TEXT}
_NUMBER_OR_NULL = nullable(NUMBER)

SCHEMAS: dict[str, Schema] = {
    "Error": made({"error": made({"message": TEXT, "type": TEXT, "param": nullable(TEXT), "code": nullable(TEXT)})}),
    "State": made({"status": one_of("ok")}),
    "Version": made({"version": TEXT}),
    "Model": made(
        {
            "id": TEXT,
            "object": one_of("model"),
            "created": COUNT,
            "owned_by": TEXT,
            "max_model_len": COUNT,
            "meta": made({"n_ctx": COUNT, "n_params": COUNT, "size": COUNT}),
            "capabilities": many(one_of("completion", "tools", "thinking", "embedding")),
        },
        {"parent": TEXT},
    ),
    "Models": made(
        {
            "object": one_of("list"),
            "data": many(ref("Model")),
            "models": many(made({"name": TEXT, "model": TEXT, "capabilities": many(TEXT)})),
        }
    ),
    "TokenizeRequest": any_of(
        given({"content": TEXT}, {"add_special": FLAG, "parse_special": FLAG, "with_pieces": FLAG, **_MODEL}),
        given({"prompt": TEXT}, {"add_special_tokens": FLAG, "parse_special": FLAG, **_MODEL}),
        given({"messages": many(ref("Message"), 1)}, {"add_generation_prompt": FLAG, **_MODEL}),
    ),
    "TokenizeAnswer": any_of(
        made(_ID),
        made({"tokens": many(made({"id": COUNT, "piece": any_of(TEXT, many(whole(0, 255)))}))}),
        made({**_ID, "count": COUNT, "max_model_len": COUNT}),
    ),
    "DetokenizeRequest": given({"tokens": many(whole(0, LARGEST_ID))}, _MODEL),
    "DetokenizeAnswer": made({"content": TEXT, "prompt": TEXT}),
    "TemplateRequest": given(
        {"messages": many(ref("Message"), 1)},
        {
            **_MODEL,
            "tools": many(ref("Tool")),
            "add_generation_prompt": FLAG,
            "continue_final_message": FLAG,
            "chat_template_kwargs": OBJECT,
        },
    ),
    "TemplateAnswer": made({"prompt": TEXT}),
    "TokenizerInfo": made(
        {
            "tokenizer_class": TEXT,
            "vocab_size": COUNT,
            "bos_token_id": nullable(COUNT),
            "eos_token_ids": many(COUNT),
            "chat_template": nullable(TEXT),
        }
    ),
    "ScoreRequest": given({"prompt": any_of(TEXT, fields.IDS)}, {**_MODEL, "top_logprobs": whole(0, 20)}),
    "ScoreAnswer": made(
        {
            "object": one_of("score"),
            "model": TEXT,
            "tokens": many(COUNT),
            "logprobs": many(_NUMBER_OR_NULL),
            "top_logprobs": many(many(many(NUMBER, 2, 2))),
            "total": NUMBER,
        }
    ),
    "EmbeddingsRequest": given(
        {"input": any_of(TEXT, many(whole(0, LARGEST_ID), 1), many(any_of(TEXT, many(whole(0, LARGEST_ID), 1)), 1))},
        {
            **_MODEL,
            "encoding_format": one_of("float", "base64"),
            "dimensions": whole(1),
            "prompt": TEXT,
            "prompt_name": TEXT,
            "truncate": FLAG,
            "timeout": fields.POSITIVE,
            **dict.fromkeys(("user", "metadata", "priority"), ANY),
        },
    ),
    "Embeddings": made(
        {
            "object": one_of("list"),
            "data": many(
                made({"object": one_of("embedding"), "index": COUNT, "embedding": any_of(many(NUMBER), TEXT)}), 1
            ),
            "model": TEXT,
            "usage": made({"prompt_tokens": COUNT, "total_tokens": COUNT}),
        }
    ),
    "ReloadRequest": given({}, _MODEL),
    "ReloadAnswer": made({"status": one_of("ok"), "model": TEXT, "seconds": NUMBER}),
    "Requests": made({"running": many(ref("Request")), "recent": many(ref("Request"))}),
    "Request": given({"id": TEXT, "client": TEXT, "route": TEXT, "status": COUNT, "running": FLAG, "traced": FLAG}),
    "Cancelled": made({"id": TEXT, "cancelled": COUNT}),
    "Timeline": given({}, {"id": TEXT, "spans": many(OBJECT), "texts": many(OBJECT), "traceEvents": many(OBJECT)}),
}
"""By name."""
