"""OpenAI's completions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from pyml_core.errors import PymlError

from ...arguments import prompt_ids
from ...generation.text_stream import cancelled_at_end
from ...openai import answers
from ...openai.completion_answer import CompletionChoice
from ...openai.requests import CompletionRequest, completion_request, without_ends
from ..bodies import compact, discard, json_body
from ..service import Service
from ..sse import EventStream, while_connected
from ..texts import all_steps
from .chat import ignored_header
from .streaming import streamed, usage

if TYPE_CHECKING:
    from ...generation.text_stream import TextStream
    from ...language_model import LanguageModel
    from ...openai.answers import Head


async def completions(request: Request) -> Any:
    """POST /v1/completions."""
    service: Service = request.app.state.service
    body = await json_body(request, service)
    adapter = service.check_model(body.get("model"))
    try:
        parsed, prompts, ignored = await service.work(_plan, service, body, adapter)
    except PymlError:
        await service.work(discard, body)
        raise
    streams = service.submit(prompts, parsed.common, request.scope.get("pyml.client"))
    head = service.head("text_completion", adapter)
    headers = ignored_header(ignored)
    if parsed.common.stream:
        return EventStream(_events(service, head, parsed, prompts, streams), headers=headers)
    answer = await while_connected(request, _answer(service, head, parsed, prompts, streams))
    return Response(compact(answer), media_type="application/json", headers=headers)


def _plan(
    service: Service, body: dict[str, Any], adapter: str | None
) -> tuple[CompletionRequest, list[list[int]], list[str]]:
    lm, ignored = service.lm, list[str]()
    parsed = completion_request(body, service.defaults(adapter), ignored, lm.context_length)
    parsed = replace(parsed, common=without_ends(parsed.common, lm.engine.eos_ids))
    if parsed.common.options.grammar is not None:
        lm.engine.vocabulary.matcher(parsed.common.options.grammar)  # compiled here, which may take seconds
    return parsed, [prompt_ids(lm.engine, "prompt", prompt) for prompt in parsed.prompts], ignored


async def _answer(
    service: Service,
    head: Head,
    parsed: CompletionRequest,
    prompts: Sequence[Sequence[int]],
    streams: Sequence[TextStream],
) -> dict[str, Any]:
    with cancelled_at_end(streams):
        await all_steps(streams)
    choices = await _choices(service, parsed, prompts, len(streams))
    ended = [stream.completion for stream in streams]
    found = [choice.whole(completion) for choice, completion in zip(choices, ended, strict=True)]
    return head.answer(found, usage=usage(parsed.common, ended, choices), **answers.own_fields(ended))


async def _choices(
    service: Service, parsed: CompletionRequest, prompts: Sequence[Sequence[int]], count: int
) -> list[CompletionChoice]:
    lm, common = service.lm, parsed.common
    echoes = [("", None) for _ in prompts]
    if parsed.echo:
        echoes = await service.work(_echoes, lm, parsed, prompts)
    return [CompletionChoice(lm.tokenizer, common, index, *echoes[index // common.n]) for index in range(count)]


def _echoes(lm: LanguageModel, parsed: CompletionRequest, prompts: Sequence[Sequence[int]]) -> list[Any]:
    """The text of each prompt, and the log probabilities of its tokens if they are wanted."""
    found = []
    for given, ids in zip(parsed.prompts, prompts, strict=True):
        text = given if isinstance(given, str) else lm.tokenizer.decode(ids, skip_special=False)
        top = parsed.common.options.logprobs
        found.append((text, None if top is None else lm.score(ids, top)))
    return found


async def _events(
    service: Service,
    head: Head,
    parsed: CompletionRequest,
    prompts: Sequence[Sequence[int]],
    streams: Sequence[TextStream],
) -> AsyncIterator[bytes]:
    with cancelled_at_end(streams):
        choices = await _choices(service, parsed, prompts, len(streams))
        async for data in streamed(head, parsed.common, streams, choices):
            yield data
