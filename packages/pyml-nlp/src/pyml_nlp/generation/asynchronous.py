"""One text for asyncio: what :meth:`LanguageModel.agenerate` returns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyml_core.pickling import OfOneProcess

from .completion import Step
from .iterator import Generation

if TYPE_CHECKING:
    from asyncio import Future


class AsyncGeneration(OfOneProcess, instead="send its text, tokens and finish_reason instead"):
    """An asynchronous iterator of the steps of a text: each is computed in a thread of the event loop's executor.

    Nothing runs ahead of the reader. When the task that waits for a step is cancelled, so is the text.

    Args:
        generation: the text.

    Attributes:
        generation: the text, with ``text``, ``tokens``, ``finish_reason`` and ``completion`` so far.
    """

    def __init__(self, generation: Generation) -> None:
        self.generation = generation
        self._next: Future[Step | None] | None = None

    def __aiter__(self) -> AsyncGeneration:
        return self

    async def __anext__(self) -> Step:
        import asyncio

        await self._settled()
        self._next = asyncio.ensure_future(asyncio.to_thread(next, self.generation, None))
        try:
            step = await asyncio.shield(self._next)
        except asyncio.CancelledError:
            await self.aclose()
            raise
        if step is None:
            raise StopAsyncIteration
        return step

    async def aclose(self) -> None:
        """End the text with what it has, and wait until the model has stopped."""
        self.generation.cancel()
        await self._settled()

    async def _settled(self) -> None:
        """Wait for a step that nobody waited for."""
        import asyncio

        if self._next is not None and not self._next.done():
            await asyncio.wait([self._next])

    async def read(self) -> str:
        """The whole text."""
        async for _ in self:
            pass
        return self.generation.text

    @property
    def text(self) -> str:
        """The text so far, in whole characters."""
        return self.generation.text

    @property
    def tokens(self) -> list[int]:
        """Token ids so far."""
        return self.generation.tokens

    @property
    def finish_reason(self) -> str | None:
        """Why the text ended; None while it runs."""
        return self.generation.finish_reason

    def cancel(self) -> None:
        """End the text with what it has; from any thread or signal handler."""
        self.generation.cancel()
