"""Which drafted tokens the texts of a generator run with."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from pyml_core.want import NO_TOKENS

from ..engine import Engine
from .completion import Completion
from .draft_model import DraftModel, FirstThatHas, check_vocabulary
from .speculation import WORTH, Drafter, LookUp, plan

MAX_RUNS = 32
"""Most runs of one call: with so many, Python's share of a token's time is nearly as small as it gets."""

TOGETHER_MS = 40.0
"""Most milliseconds of such a call, about: whoever reads along sees text come 25 times a second, as films are shown."""


class Speculator:
    """Drafts for the texts of one generator.

    Args:
        engine: of the model that writes.
        enabled: False: nothing is drafted.
        draft_model: a smaller model that drafts where a text's own past does not.

    Raises:
        PymlError: the draft model has another vocabulary.
    """

    def __init__(self, engine: Engine, enabled: bool, draft_model: Engine | None) -> None:
        if draft_model is not None:
            check_vocabulary(engine, draft_model)
        self._engine = engine
        self._draft_model = draft_model
        self._enabled = enabled or draft_model is not None
        self._look_up = enabled

    def begin(self, completion: Completion) -> None:
        """Watch a text from its first token on."""
        if not self._enabled:
            return
        ids = [*completion.cache.ids, *completion.tokens]
        drafters: list[Drafter] = [LookUp(ids)] if self._look_up else []
        if self._draft_model is not None:
            drafters.append(DraftModel(self._draft_model, completion.options, ids, self._engine.vocab_size))
        completion.drafter = drafters[0] if len(drafters) == 1 else FirstThatHas(*drafters)

    def drafts(self, texts: Sequence[Completion]) -> list[list[int]]:
        """Drafted tokens for every text, as many as pay."""
        if not self._enabled or self._engine.traced:  # a step of a trace is a token
            return [[] for _ in texts]
        drafters = [(completion.drafter, _room(completion)) for completion in texts]
        counts = plan(drafters, self._engine.costs)
        return [
            drafter.draft(count) if drafter is not None and count else []
            for (drafter, _), count in zip(drafters, counts, strict=True)
        ]

    def greedy_runs(self, completion: Completion) -> int:
        """How many tokens to run in one call where nothing is drafted."""
        ms = self._engine.costs.ms
        if self._draft_model is not None or not ms:
            return 1
        return max(1, min(MAX_RUNS, int(TOGETHER_MS / ms), _room(completion) + 1))

    def past(self, completion: Completion) -> tuple[array[int], int]:
        """What a text may repeat, and how many tokens of it for a draft to pay; 0 if none would."""
        drafter = completion.drafter
        if not isinstance(drafter, LookUp):
            return NO_TOKENS, 0
        return drafter.ids, drafter.least_match(self._engine.costs.of(2) * WORTH - 1)

    def learn(self, tokens: int, ms: float) -> None:
        """A run of so many tokens of texts took so long."""
        self._engine.costs.learn(tokens, ms)


def _room(completion: Completion) -> int:
    """Most drafted tokens that a text can use: with all of them it has one token more than was drafted."""
    cache = completion.cache
    wanted = completion.options.max_tokens - len(completion.tokens) - 1
    return max(0, min(wanted, cache.max_length - cache.length - len(completion.pending)))
