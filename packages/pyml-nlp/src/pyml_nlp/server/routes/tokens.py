"""Texts as tokens and back, prompts of messages, and log probabilities of given texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pyml_core.errors import quoted

from ...errors import ArgumentError, ChatTemplateError
from ...generation.admission import check_length
from ...openai.fields import Fields
from ...options.chat import ChatOptions
from ...values import check_ids, text, token_ids
from ..bodies import compact, discard, json_body
from ..service import Service

if TYPE_CHECKING:
    from ...tokenizer import Tokenizer

MAX_TOP = 20


async def _worked(request: Request, answer: Callable[[Service, Fields], dict[str, Any]]) -> Response:
    """Answer in a worker thread."""
    service: Service = request.app.state.service
    body = await json_body(request, service)
    fields = Fields(body)
    service.check_model(fields.any("model"))

    def work() -> bytes:
        try:
            return compact(answer(service, fields))
        finally:
            discard(body)

    return Response(await service.work(work), media_type="application/json")


async def tokenize(request: Request) -> Response:
    """POST /tokenize, in llama.cpp's form (``content``) or vLLM's (``prompt`` or ``messages``)."""
    return await _worked(request, _tokenize)


def _tokenize(service: Service, fields: Fields) -> dict[str, Any]:
    tokenizer = service.tokenizer
    special = fields.flag("parse_special", False)
    if "content" in fields:
        ids = tokenizer.encode(fields.text("content") or "", fields.flag("add_special"), special)
        pieces = fields.flag("with_pieces")
        return {"tokens": [_piece(tokenizer, token) for token in ids] if pieces else list(ids)}
    if "messages" in fields:
        options = ChatOptions(add_generation_prompt=fields.flag("add_generation_prompt", True))
        ids = service.lm.chat_ids(fields.any("messages"), options)
    else:
        prompt = text("prompt", fields.required("prompt"))
        ids = tokenizer.encode(prompt, fields.flag("add_special_tokens", True), special)
    return {"tokens": list(ids), "count": len(ids), "max_model_len": service.context_length}


def _piece(tokenizer: Tokenizer, token: int) -> dict[str, Any]:
    data = tokenizer.token_bytes(token)
    try:
        return {"id": token, "piece": data.decode()}
    except UnicodeDecodeError:
        return {"id": token, "piece": list(data)}


async def detokenize(request: Request) -> Response:
    """POST /detokenize: ``tokens`` as ``content`` (llama.cpp) and ``prompt`` (vLLM)."""
    return await _worked(request, _detokenize)


def _detokenize(service: Service, fields: Fields) -> dict[str, Any]:
    ids = fields.required("tokens")
    if ids != []:
        check_ids("tokens", token_ids("tokens", ids), service.network.vocab_size)
    found = service.tokenizer.decode(ids, skip_special=False)
    return {"content": found, "prompt": found}


async def apply_template(request: Request) -> Response:
    """POST /apply-template: the prompt that the chat template makes of ``messages``."""
    return await _worked(request, _apply_template)


def _apply_template(service: Service, fields: Fields) -> dict[str, Any]:
    messages = fields.required("messages")
    options = ChatOptions(
        tools=fields.any("tools"),
        add_generation_prompt=fields.flag("add_generation_prompt", True),
        continue_final_message=fields.flag("continue_final_message"),
        variables=fields.any("chat_template_kwargs"),
    )
    return {"prompt": service.lm.apply_chat_template(messages, options)}


async def score(request: Request) -> Response:
    """POST /v1/score: the log probability of each token of a ``prompt``."""
    return await _worked(request, _score)


def _score(service: Service, fields: Fields) -> dict[str, Any]:
    lm, prompt = service.lm, fields.required("prompt")
    top = fields.whole("top_logprobs", 0, MAX_TOP, 0) or 0
    if not isinstance(prompt, str | list):
        raise ArgumentError(f"must be a text or token ids, got {quoted(prompt)}", "prompt")
    if isinstance(prompt, list):
        check_length(lm.context_length, len(prompt))  # before each of a million ids is checked
    scores = lm.score(lm.ids(prompt), top)
    return {
        "object": "score",
        "model": service.model_name,
        "tokens": [one.token for one in scores],
        "logprobs": [one.logprob for one in scores],
        "top_logprobs": [[list(pair) for pair in one.top_logprobs] for one in scores],
        "total": sum(one.logprob for one in scores if one.logprob is not None),
    }


async def tokenizer_info(request: Request) -> Response:
    """GET /tokenizer_info: what evaluation programs ask for."""
    service: Service = request.app.state.service
    tokenizer = service.lm.tokenizer
    try:
        template = service.lm.chat_template.source()
    except ChatTemplateError:
        template = None
    return JSONResponse(
        {
            "tokenizer_class": type(tokenizer).__name__,
            "vocab_size": service.lm.vocab_size,
            "bos_token_id": tokenizer.bos_id,
            "eos_token_ids": sorted(service.lm.engine.eos_ids),
            "chat_template": template,
        }
    )
