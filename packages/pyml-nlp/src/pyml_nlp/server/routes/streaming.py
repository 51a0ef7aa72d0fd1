"""The chunks of a stream of OpenAI's chat or completions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

from ...openai import answers
from ..chunks import Chunks
from ..sse import DONE, event
from ..texts import steps_of

if TYPE_CHECKING:
    from ...generation.completion import Completion, Step
    from ...generation.text_stream import TextStream
    from ...openai.answers import Head
    from ...openai.requests import Common

PROGRESS_SECONDS = 0.1
"""How often the progress of a prompt is looked at."""


class Choice(Protocol):
    """A choice of an answer."""

    @property
    def reasoning_tokens(self) -> int:
        """Number of tokens of the reasoning so far."""
        ...

    def push(self, *steps: Step) -> list[dict[str, Any]]:
        """The choices of chunks for steps."""
        ...

    def finish(self, completion: Completion) -> list[dict[str, Any]]:
        """The last ones."""
        ...


async def streamed(
    head: Head, common: Common, streams: Sequence[TextStream], choices: Sequence[Choice]
) -> AsyncIterator[bytes]:
    """The events of a stream, to its end.

    The last chunk with a choice has the times of all texts, and what only pyml reports.

    Args:
        head: of the answer.
        common: what has been asked for.
        streams: the texts, ``common.n`` of each prompt.
        choices: of each text.
    """
    completions = [stream.completion for stream in streams]
    if common.progress:
        async for progress in _progress(streams[0].completion):
            yield event(head.chunk([], prompt_progress=progress))
    plain = Chunks(head, common.include_usage)
    every = common.continuous_usage or common.timings_per_token
    running = len(streams)
    async for number, steps in steps_of(streams):
        choice = choices[number]
        found = choice.push(*steps) if steps else choice.finish(completions[number])
        running -= not steps
        last = found.pop() if not running else None
        if every:
            data = b"".join([event(head.chunk([one], **_more(common, completions, choices))) for one in found])
        else:
            data = plain(found)
        if last is not None:
            data += event(
                head.chunk([last], **{**_more(common, completions, choices), **answers.own_fields(completions)})
            )
        if data:
            yield data
    counts = [event(head.chunk([], usage=usage(common, completions, choices)))] if common.include_usage else []
    yield b"".join([*counts, DONE])


def _more(common: Common, completions: Sequence[Completion], choices: Sequence[Choice]) -> dict[str, Any]:
    """What a chunk has besides its choice."""
    more: dict[str, Any] = {}
    if common.continuous_usage:
        more["usage"] = usage(common, completions, choices)
    elif common.include_usage:
        more["usage"] = None
    if common.timings_per_token:
        more["timings"] = answers.timings(completions)
    return more


def usage(common: Common, completions: Sequence[Completion], choices: Sequence[Choice]) -> dict[str, Any]:
    """The counts of tokens so far."""
    return answers.usage(completions, common.n, sum([choice.reasoning_tokens for choice in choices]))


async def _progress(completion: Completion) -> AsyncIterator[dict[str, Any]]:
    """How much of a prompt has been computed, whenever that has changed, until all of it has. As of llama.cpp."""
    begun, last, total = monotonic(), -1, len(completion.prompt)
    ended = False
    while last < total and not ended:
        ended = completion.finish_reason is not None
        processed = total if completion.first_token_at is not None else 0
        if completion.placed and not processed:
            processed = total - len(completion.pending)
        if processed != last:
            last = processed
            time_ms = round(1e3 * (monotonic() - begun))
            yield {"total": total, "cache": completion.reused, "processed": processed, "time_ms": time_ms}
        if processed < total and not ended:
            await asyncio.sleep(PROGRESS_SECONDS)
