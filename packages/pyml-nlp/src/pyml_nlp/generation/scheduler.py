"""Many texts with one model, several side by side: when a text ends, the next one takes its place at once.

A run of the model has one token of every running text and, next to them, a piece of the prompts that come next: running
texts never wait for a whole prompt. Each text is the same as alone, whatever runs with it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from pyml_core.errors import OutOfMemoryError, PymlError
from pyml_core.pickling import OfOneProcess

from ..values import whole
from .completion import Completion, Step
from .generator import Generator
from .prefix_cache import common_length
from .request import Request

MAX_BATCH_SIZE = 8
"""Most texts at a time by default."""

PREFILL_TOKENS = 128
"""Most tokens of prompts in a run while texts are running."""

MIN_SHARED = 16
"""A prompt waits for one that is being computed if this many of their first tokens are the same, and forks it then."""


class Scheduler(OfOneProcess, instead="make one with the model of the other process"):
    """Generates texts side by side, as places and memory allow. Iterate over it once, for the texts as they end.

    A text that is refused or fails ends with its :attr:`Completion.error`, and the others go on.

    Args:
        generator: of the model; its timeout is that of all texts together.
        requests: the texts to generate; the next one is asked for when there is a place.
        max_batch_size: most texts at a time.
        chunk: most tokens of prompts in a run while no text is running.

    Attributes:
        waiting: prepared texts that get the next places, in order.
        max_batch_size: as given.

    Raises:
        ArgumentError: ``max_batch_size`` is not a whole number above 0.
    """

    def __init__(
        self,
        generator: Generator,
        requests: Iterable[Request] = (),
        max_batch_size: int = MAX_BATCH_SIZE,
        chunk: int = 512,
    ) -> None:
        self.waiting: deque[Completion] = deque()
        self.max_batch_size = whole("max_batch_size", max_batch_size, 1)
        self._generator = generator
        self._requests = iter(requests)
        self._chunk = chunk
        self._prompts: list[Completion] = []  # have a place, and not all of the prompt has run
        self._refused: list[Completion] = []

    def __iter__(self) -> Iterator[Completion]:
        while True:
            self.admit()
            _, ended = self.step()
            yield from ended
            if not ended and not self.busy:
                return

    @property
    def batch(self) -> list[Completion]:
        """The texts that have a place."""
        return [*self._generator.running, *self._prompts]

    @property
    def busy(self) -> bool:
        """Whether there is a text, with a place or without."""
        return bool(self._generator.running or self._prompts or self.waiting)

    def step(self) -> tuple[list[Step], list[Completion]]:
        """Run the model once, after :meth:`admit`; the steps, and the texts that have ended or were refused."""
        batch = self.batch
        steps = self._generator.advance(self._pieces()) if batch else []
        refused, self._refused = self._refused, []
        return steps, refused + self._drop_ended(batch)

    def drop(self, completions: Sequence[Completion]) -> None:
        """Take out texts that have ended before or during their prompts."""
        self._prompts = [item for item in self._prompts if item not in completions]
        if any(item in self.waiting for item in completions):
            self.waiting = deque(item for item in self.waiting if item not in completions)

    def _drop_ended(self, batch: Sequence[Completion]) -> list[Completion]:
        """Free the places of the texts of this batch that have ended, and return these."""
        running = self._generator.running
        ended = [completion for completion in batch if completion.finish_reason is not None]
        self._prompts = [item for item in self._prompts if item not in running and item not in ended]
        return ended

    def admit(self) -> None:
        """Give places to the next texts, as long as their prompts are of use in the next run."""
        room = self._room() - sum([len(completion.pending) for completion in self._prompts])
        while room > 0 and len(self.batch) < self.max_batch_size:
            completion = self._next()
            if completion is None or self._shared(completion):
                return
            try:
                self._generator.admit(completion)
            except OutOfMemoryError as error:
                if self.batch:
                    return  # there is memory when one of them ends
                completion.fail(error)
                self._refused.append(completion)
            else:
                self._generator.begin(completion)
                self._prompts.append(completion)
                room -= len(completion.pending)
            self.waiting.popleft()

    def _next(self) -> Completion | None:
        """The text that gets the next place."""
        while not self.waiting:
            request = next(self._requests, None)
            if request is None:
                return None
            try:
                self.waiting.append(self._generator.prepare(request))
            except PymlError as error:
                self._refused.append(self._generator.refused(request, error))
        return self.waiting[0]

    def _room(self) -> int:
        """Tokens of prompts that the next run may have."""
        return PREFILL_TOKENS if self._generator.running else self._chunk

    def _shared(self, completion: Completion) -> bool:
        """Whether its beginning is being computed for another text right now, and will be kept."""
        return self._generator.keeps_prompts and any(
            common_length(other.prompt, completion.prompt) >= MIN_SHARED for other in self._prompts
        )

    def _pieces(self) -> list[tuple[Completion, int]]:
        """The piece of each prompt that is in the next run."""
        room = self._room()
        pieces = []
        for completion in self._prompts:
            count = min(room, len(completion.pending))
            if count:
                pieces.append((completion, count))
            room -= count
        return pieces
