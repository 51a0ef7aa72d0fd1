"""The texts of a request while they are generated: their steps as they come, and their ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from pyml_core.errors import Cancelled

from ..generation.completion import CANCELLED, TIMEOUT, Completion, Step
from ..generation.text_stream import TextStream
from .errors import TextCancelled


async def steps_of(streams: Sequence[TextStream]) -> AsyncIterator[tuple[int, list[Step]]]:
    """Number of the text and its next steps, in the order in which they come; at the end of a text: no steps.

    Raises:
        PymlError: one of the texts has failed.
        Cancelled: it has been cancelled, or its time is over.
    """
    if len(streams) == 1:
        while steps := await streams[0].next_steps():
            yield 0, steps
        check_end(streams[0].completion)
        yield 0, []
        return
    waiting = {asyncio.ensure_future(stream.next_steps()): number for number, stream in enumerate(streams)}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=waiting.__getitem__):
                number = waiting.pop(task)
                steps = task.result()
                if steps:
                    waiting[asyncio.ensure_future(streams[number].next_steps())] = number
                else:
                    check_end(streams[number].completion)
                yield number, steps
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def all_steps(streams: Sequence[TextStream]) -> list[list[Step]]:
    """All steps of each text, when all texts have ended.

    Raises:
        PymlError, Cancelled: as of :func:`steps_of`.
    """
    found: list[list[Step]] = [[] for _ in streams]
    for number, stream in enumerate(streams):
        while steps := await stream.next_steps():
            found[number] += steps
        check_end(stream.completion)
    return found


def check_end(completion: Completion) -> None:
    """Raise Cancelled if a text was ended by its time or by a cancel."""
    if completion.finish_reason == TIMEOUT:
        raise Cancelled("the request's time is over")
    if completion.finish_reason == CANCELLED:
        raise TextCancelled("the text was cancelled")
