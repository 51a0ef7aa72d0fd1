"""Many texts with one model, several side by side: when a text ends, the next one takes its place at once.

A run of the model has one token of every running text and, next to them, pieces of the prompts that come next: as much
as the gap between two tokens of the running texts allows. Each text is the same as alone, whatever runs with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from pyml_core.errors import OutOfMemoryError, PymlError
from pyml_core.pickling import OfOneProcess

from ..values import whole
from .completion import Completion, Step
from .fair_queue import FairQueue
from .generator import Generator
from .kv_budget import KVBudget
from .model_run import Piece
from .prefix_tree import common_length
from .request import Request

MAX_BATCH_SIZE = 8
"""Most texts at a time by default."""

MAX_GAP = 0.05
"""Seconds that a run with pieces of prompts may take by default while texts are running."""

MAX_PARTS = 2
"""Most prompts with a place that do not fit in the next run."""

AGEING_TOKENS = 128
"""Prompts with the fewest remaining tokens run first. A run without a piece of a prompt makes it count as shorter."""

MIN_SHARED = 16
"""A prompt waits for one that is being computed if this many of its next tokens are the same, and forks it then."""


class Scheduler(OfOneProcess, instead="make one with the model of the other process"):
    """Generates texts side by side, as places and memory allow. Iterate over it once, for the texts as they end.

    A text that is refused or fails ends with its :attr:`Completion.error`, and the others go on.

    Args:
        generator: of the model; its timeout is that of all texts together.
        requests: the texts to generate; the next one is asked for when there is a place.
        max_batch_size: most texts at a time.
        chunk: most tokens of prompts in a run while no text is running.

    Attributes:
        waiting: prepared texts without a place.
        max_batch_size: as given.
        max_gap: seconds that a run may take for pieces of prompts while texts are running.
        n_preempted: how often a text has lost its place, because memory was short.

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
        self.waiting = FairQueue()
        self.max_batch_size = whole("max_batch_size", max_batch_size, 1)
        self.max_gap = MAX_GAP
        self.n_preempted = 0
        self._generator = generator
        self._requests = iter(requests)
        self._chunk = chunk
        self._prompts: dict[Completion, int] = {}  # with a place, not completely run; the runs since their last pieces
        self._following: set[Completion] = set()  # prompts that wait for what is computed for another one
        self._refused: list[Completion] = []
        self._budget = KVBudget(generator.engine)
        self._steps_left = 0  # until a text may need more memory than it has reserved

    def __iter__(self) -> Iterator[Completion]:
        while True:
            self.admit()
            _, ended = self.step()
            yield from ended
            if not ended and not self.busy:
                return

    @property
    def kv_bytes(self) -> int | None:
        """Most bytes of keys and values of texts with a place and kept prefixes; None: the free memory."""
        return self._budget.limit

    @kv_bytes.setter
    def kv_bytes(self, kv_bytes: int | None) -> None:
        if kv_bytes != self._budget.limit:
            self._budget.limit = kv_bytes
            self._steps_left = 0

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
        steps = self._generator.advance(self._pieces) if batch else []
        if self._budget.limit is not None:
            self._budget.shrink_prefixes()  # the run has added some
        refused, self._refused = self._refused, []
        return steps, refused + self._drop_ended(batch)

    def drop(self, completions: Sequence[Completion]) -> None:
        """Take out texts that have ended before or during their prompts."""
        for completion in completions:
            self._forget(completion)
            self._budget.release(completion)
            self.waiting.remove(completion)

    def _forget(self, completion: Completion) -> None:
        """A text has no prompt to run any more."""
        self._prompts.pop(completion, None)
        self._following.discard(completion)

    def _drop_ended(self, batch: Sequence[Completion]) -> list[Completion]:
        """Free the places of the texts of this batch that have ended, and return these."""
        ended = [completion for completion in batch if completion.finish_reason is not None]
        for completion in ended:
            self._budget.release(completion)
        if self._prompts:
            for completion in (*self._generator.running, *ended):
                self._forget(completion)
        return ended

    # ---- places

    def admit(self) -> None:
        """Give places to the next texts, as long as their prompts are of use in the next run.

        If the memory is short for the texts that have places, some lose them before.
        """
        self._budget.look_again()  # texts that get places together share a look
        self._steps_left -= 1
        if self._steps_left < 0 and not self._generator.has_steps:
            self._secure_memory()
        while len(self._generator.running) + len(self._prompts) < self.max_batch_size:
            if not self.waiting and not self._prepare_next():
                return
            completion = next((one for one in self.waiting.heads() if self._is_of_use(one)), None)
            if completion is None:
                return
            alone = not (self._generator.running or self._prompts)
            try:
                self._budget.admit(completion, alone)
            except OutOfMemoryError as error:
                if not alone:
                    return  # there is memory when one of them ends
                self.waiting.remove(completion)
                completion.fail(error)
                self._refused.append(completion)
            else:
                self._generator.place(completion)
                self._generator.begin(completion)
                self.waiting.take(completion)
                self._prompts[completion] = 0
                self._steps_left = 0

    def preempt(self, completion: Completion) -> None:
        """Let a text with a place wait again, before all others; only before a run of the model."""
        self._generator.preempt(completion)
        self._forget(completion)
        self._budget.release(completion)
        self.waiting.add_first(completion)
        self.n_preempted += 1

    def _secure_memory(self) -> None:
        """Before a run: reserve what the texts need in it. Where there is too little, texts lose their places."""
        while not self._budget.grow():
            batch = [one for one in self.batch if not one.cache_given]
            if len(batch) < 2:
                break  # it has what there is
            self.preempt(min(batch, key=lambda one: (one.priority, len(one.tokens), -one.sequence)))
        self._steps_left = self._budget.steps_left()

    def _prepare_next(self) -> bool:
        """Let the next request wait; False if there is none."""
        for request in self._requests:
            try:
                self.waiting.add(self._generator.prepare(request))
                return True
            except PymlError as error:
                self._refused.append(self._generator.refused(request, error))
        return False

    def _is_of_use(self, completion: Completion) -> bool:
        """Whether a piece of its prompt may be in the next run, or in one soon."""
        prompts = [one for one in self._prompts if one not in self._following]
        if not prompts or self._leader(completion, prompts) is not None:
            return True
        lengths = sorted([len(one.pending) for one in (*prompts, completion)])
        room = self._room(prompts[0], len(self._generator.running))
        return sum([length > room for length in accumulate(lengths)]) <= MAX_PARTS

    def _leader(self, completion: Completion, others: Iterable[Completion]) -> Completion | None:
        """Another prompt that has, in what is not computed yet, the next tokens of this one, and will be kept."""
        if not self._generator.keeps_prompts or completion.cache_given or completion.shifted:
            return None
        for other in others:
            if other.salt != completion.salt or other.cache.origin != completion.cache.origin:
                continue
            if other.prompt[:MIN_SHARED] != completion.prompt[:MIN_SHARED]:
                continue
            common = common_length(other.prompt, completion.prompt)
            if common - max(completion.cache.length, other.cache.length) >= MIN_SHARED and not other.shifted:
                return other
        return None

    # ---- pieces of prompts

    def _room(self, first: Completion, decoded: int) -> int:
        """Tokens of prompts that a run may have, next to ``decoded`` other ones; ``first`` gets a piece first."""
        return self._generator.prompt_room(self.max_gap, first.cache.length, decoded) if decoded else self._chunk

    def _pieces(self, decoded: int) -> Sequence[Piece]:
        """The piece of each prompt that is in the next run: the shortest rest first."""
        prompts = self._prompts
        if not prompts:
            return ()
        order = sorted(prompts, key=lambda one: len(one.pending) - AGEING_TOKENS * prompts[one])
        room, leading, pieces = -1, list[Completion](), []
        for completion in order:
            if completion in self._following:  # the others have come further
                self._generator.catch_up(completion)
                self._following.remove(completion)
            if leading and self._leader(completion, leading) is not None:
                self._following.add(completion)
                continue
            if room < 0:
                room = self._room(completion, decoded)
            leading.append(completion)
            count = min(room, len(completion.pending))
            prompts[completion] = 0 if count else prompts[completion] + 1
            if count:
                pieces.append((completion, count))
            room -= count
        return pieces
