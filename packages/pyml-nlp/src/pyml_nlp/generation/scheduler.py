"""Many texts with one model, several side by side: the place of a text that has ended is taken at once.

A run of the model has one token of every text under way and, beside them, a piece of the prompts that come next: texts
under way never wait for a whole prompt. Whatever runs together, each text is that of its run alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from pyml_core.errors import OutOfMemoryError, PymlError
from pyml_core.pickling import OfOneProcess

from ..values import whole
from .completion import Completion
from .generator import Generator
from .prefix_cache import common_length
from .request import Request

MAX_BATCH_SIZE = 8
"""Default of the maximum number of texts that run at a time."""

PIECE = 128
"""Most tokens of prompts in a run while texts are under way."""

WORTH_WAITING = 16
"""A prompt waits for one that is being computed if they begin with so many of the same tokens, and forks it then."""


class Scheduler(OfOneProcess, instead="make one with the model of the other process"):
    """Generates texts side by side, as places and memory allow. Iterate over it once, for the texts as they end.

    A text that is refused or fails ends with its :attr:`Completion.error`, and the others go on.

    Args:
        generator: of the model; its timeout is that of all texts together.
        requests: what is wanted; the next one is asked for when there is a place.
        max_batch_size: maximum number of texts that run at a time.
        chunk: most tokens of prompts in a run while no text is under way.

    Raises:
        ArgumentError: ``max_batch_size`` is not a whole number above 0.
    """

    def __init__(
        self, generator: Generator, requests: Iterable[Request], max_batch_size: int = MAX_BATCH_SIZE, chunk: int = 512
    ) -> None:
        self._generator = generator
        self._requests = iter(requests)
        self._max_batch_size = whole("max_batch_size", max_batch_size, 1)
        self._chunk = chunk
        self._next = next(self._requests, None)
        self._prompts: list[Completion] = []  # have a place, and not all of the prompt has run
        self._refused: list[Completion] = []

    def __iter__(self) -> Iterator[Completion]:
        while True:
            self._admit()
            while self._refused:
                yield self._refused.pop(0)
            batch = [*self._generator.running, *self._prompts]
            if not batch:
                return
            self._generator.advance(self._pieces())
            running = self._generator.running
            ended = [completion for completion in batch if completion.finish_reason is not None]
            self._prompts = [item for item in self._prompts if item not in running and item not in ended]
            yield from ended

    def _room(self) -> int:
        """Tokens of prompts that the next run may have."""
        return PIECE if self._generator.running else self._chunk

    def _admit(self) -> None:
        """Give places to what comes next, as far as its prompt is of use in the next run."""
        room = self._room() - sum(len(completion.pending) for completion in self._prompts)
        while self._next is not None and room > 0 and not self._full() and not self._shared(self._next):
            try:
                completion = self._generator.start(self._next)
            except PymlError as error:
                if isinstance(error, OutOfMemoryError) and (self._generator.running or self._prompts):
                    return  # there will be memory when one of them ends
                self._refused.append(self._generator.refused(self._next, error))
            else:
                self._generator.begin(completion)
                self._prompts.append(completion)
                room -= len(completion.pending)
            self._next = next(self._requests, None)

    def _full(self) -> bool:
        return len(self._generator.running) + len(self._prompts) >= self._max_batch_size

    def _shared(self, request: Request) -> bool:
        """Whether its beginning is being computed for another text right now, and will be kept."""
        return self._generator.keeps_prompts and any(
            _begin_alike(completion.prompt, request.prompt) for completion in self._prompts
        )

    def _pieces(self) -> list[tuple[Completion, int]]:
        """What of each prompt is in the next run."""
        room = self._room()
        pieces = []
        for completion in self._prompts:
            count = min(room, len(completion.pending))
            if count:
                pieces.append((completion, count))
            room -= count
        return pieces


def _begin_alike(a: Sequence[int], b: Sequence[int]) -> bool:
    return common_length(a, b) >= WORTH_WAITING
