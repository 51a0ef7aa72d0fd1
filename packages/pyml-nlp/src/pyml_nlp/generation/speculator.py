"""Which drafted tokens the texts of a run go on with."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from pyml_core.want import NO_TOKENS

from ..engine import Engine
from .completion import Completion
from .draft_model import ChainedDrafter, DraftModel
from .speculation import MIN_SPEEDUP, Drafter, PromptLookup, plan

MAX_RUNS = 32
"""Most runs of one call of the model; with more, Python's share of a token's time hardly shrinks."""

CALL_MS = 40.0
"""Approximate upper bound on such a call, in ms, so that streamed text updates about 25 times a second."""


class Speculator:
    """Drafts for the texts of one generator.

    Args:
        engine: of the model that generates.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def begin(self, completion: Completion) -> None:
        """Give a text its drafter, after its first token."""
        if completion.matcher is not None or completion.options.logits_processor is not None:
            return  # Python has to see every token
        drafting = completion.drafting
        ids = [*completion.cache.ids, *completion.tokens]
        drafters: list[Drafter] = [PromptLookup(ids)] if drafting.look_up else []
        if drafting.draft_model is not None:
            drafters.append(DraftModel(drafting.draft_model, completion.options, ids, self._engine.vocab_size))
        if drafters:
            completion.drafter = drafters[0] if len(drafters) == 1 else ChainedDrafter(*drafters)

    def drafts(self, texts: Sequence[Completion]) -> list[list[int]]:
        """Drafted tokens for every text, as many as pay."""
        drafting = any(completion.drafter is not None for completion in texts)
        if self._engine.traced or not drafting or any(one.options.logits_processor is not None for one in texts):
            return [[] for _ in texts]  # in a trace a step is a token
        drafters = [(completion.drafter, _room(completion)) for completion in texts]
        counts = plan(drafters, self._engine.costs)
        return [
            drafter.draft(count) if drafter is not None and count else []
            for (drafter, _), count in zip(drafters, counts, strict=True)
        ]

    def runs(self, texts: Sequence[Completion]) -> int:
        """How many runs of one call to give these texts, if nothing is drafted."""
        ms = self._engine.costs.ms
        if not ms or any(completion.drafting.draft_model is not None for completion in texts):
            return 1
        most = int(CALL_MS / (ms * self._engine.costs.of(sum(len(completion.pending) for completion in texts))))
        return max(1, min(MAX_RUNS, most, *[_room(completion) + 1 for completion in texts]))

    def repetition(self, completion: Completion, n_texts: int) -> tuple[array[int], int]:
        """The tokens that a text may repeat, and how many of them must match for a draft to pay; 0: none would."""
        drafter = completion.drafter
        if not isinstance(drafter, PromptLookup):
            return NO_TOKENS, 0
        of = self._engine.costs.of
        chance = n_texts * (of(n_texts + 1) / of(n_texts) * MIN_SPEEDUP - 1)
        return drafter.ids, drafter.least_match(chance)

    def learn(self, tokens: int, ms: float) -> None:
        """Record the time of a run of ``tokens`` tokens."""
        self._engine.costs.learn(tokens, ms)


def _room(completion: Completion) -> int:
    """Most drafted tokens that a text can use: if all are accepted, it has one token more than was drafted."""
    cache = completion.cache
    wanted = completion.options.max_tokens - len(completion.tokens) - 1
    return max(0, min(wanted, cache.max_length - cache.length - len(completion.pending)))
