"""What may draft the tokens of a text: its own past, or a second, smaller model with the same vocabulary."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from typing import NamedTuple
from weakref import WeakKeyDictionary, WeakSet

from pyml_core.errors import PymlError, quoted
from pyml_core.sampling import Sampler
from pyml_core.sampling.rules import PENALTIES
from pyml_core.want import Choice, Sample

from ..engine import Engine, HasEngine, engine_of
from ..options.generation import GenerationOptions
from ..values import flag
from .prefix_tree import common_length
from .speculation import EMA_ALPHA, Drafter


class Drafting(NamedTuple):
    """What may draft the tokens of a text.

    Attributes:
        look_up: whether the text's own past does.
        draft_model: a smaller model, which does where the text does not repeat itself; None: none does.
    """

    look_up: bool = True
    draft_model: Engine | None = None


def drafting_of(engine: Engine, speculate: object, draft_model: Engine | HasEngine | None) -> Drafting:
    """The checked values of ``speculate`` and ``draft_model`` for texts of this engine.

    Raises:
        ArgumentError: a value of another type.
        PymlError: the draft model is closed or has another vocabulary.
    """
    draft = None if draft_model is None else engine_of(draft_model, "draft_model")
    if draft is not None:
        check_vocabulary(engine, draft)
    return Drafting(flag("speculate", speculate), draft)


class DraftModel:
    """Drafts the tokens that a smaller model chooses, with the same rules (except penalties) and the same noise.

    Args:
        engine: of the smaller model.
        options: of the text.
        ids: all tokens before the text.
        vocab_size: rows of the larger model's logits; a token beyond them is not drafted.

    It drafts with its own adapter of the name of the text's, if it was loaded with one; else without.

    Models of one vocabulary may have different numbers of rows, the last of which belong to no token.
    """

    def __init__(self, engine: Engine, options: GenerationOptions, ids: Sequence[int], vocab_size: int) -> None:
        self._engine = engine
        self._vocab_size = vocab_size
        self._has_all = max([*ids, *(options.sampling.logit_bias or ())]) < engine.vocab_size
        sampling = options.sampling.core_rules
        order = tuple(name for name in sampling.order if name not in PENALTIES)
        bias = tuple(item for item in sampling.logit_bias if item[0] < engine.vocab_size)
        self._sampler = Sampler(
            replace(sampling, order=order, logit_bias=bias), options.sample_index, engine.vocab_size
        )
        self._ids = list(ids)
        adapter = options.adapter if options.adapter in engine.adapters else None
        self._cache = engine.new_cache(None, adapter)
        self._drafted: list[int] = []
        self._rate = 0.7  # how often its next token is right
        self.ms_per_token = 0.0

    def chances(self, limit: int) -> list[float]:
        """Empty where the text would exceed this model's context, or has a token that the model does not have."""
        room = self._engine.context_length - len(self._ids) if self._has_all else 0
        return [self._rate ** (i + 1) for i in range(min(limit, room))]

    def draft(self, count: int) -> list[int]:
        """Run the smaller model, first on the tokens of the text that it has not seen."""
        cache, ids = self._cache, self._ids
        cache.trim(min(common_length(cache.ids, ids), len(ids) - 1))
        feed = ids[cache.length :]
        choice = Choice(self._sampler, len(ids))
        start = time.perf_counter()
        ((first,),), _ = self._engine.forward([(cache, feed, None)], Sample([choice]))
        found = [first]
        if count > 1 and first.error is None:
            start = time.perf_counter()  # the first run includes the tokens that the model had not seen
            choice = Choice(self._sampler, len(ids) + 1)
            (more,), _ = self._engine.forward([(cache, [first.token], None)], Sample([choice], count - 1))
            found += more
        drafted = [one.token if one.error is None else self._vocab_size for one in found]
        self._drafted = list(takewhile(lambda token: token < self._vocab_size, drafted))
        ms = (time.perf_counter() - start) * 1e3 / max(1, len(found) - 1)
        self.ms_per_token += (ms - self.ms_per_token) * (EMA_ALPHA if self.ms_per_token else 1.0)
        return self._drafted

    def append(self, token: int) -> None:
        """Update how often drafts are right; the rate recovers slowly while nothing is drafted, for another try."""
        if self._drafted:
            right = self._drafted.pop(0) == token
            self._rate += EMA_ALPHA * (right - self._rate)
            if not right:
                self._drafted = []
        elif self._rate < 0.5:
            self._rate += 0.002
        self._ids.append(token)
        self._has_all = self._has_all and token < self._engine.vocab_size


class ChainedDrafter:
    """Several drafters: the first one that has a draft gives it."""

    def __init__(self, *drafters: Drafter) -> None:
        self._drafters = drafters
        self._first = drafters[0]

    @property
    def ms_per_token(self) -> float:
        """Milliseconds of drafting a token."""
        return self._first.ms_per_token

    def chances(self, limit: int) -> list[float]:
        """The chances of the first drafter that has any."""
        for drafter in self._drafters:
            chances = drafter.chances(limit)
            if chances:
                self._first = drafter
                return chances
        return []

    def draft(self, count: int) -> list[int]:
        """A draft of the drafter whose chances were returned last."""
        return self._first.draft(count)

    def append(self, token: int) -> None:
        """Pass a token to all drafters."""
        for drafter in self._drafters:
            drafter.append(token)


_same: WeakKeyDictionary[Engine, WeakSet[Engine]] = WeakKeyDictionary()


def check_vocabulary(engine: Engine, draft: Engine) -> None:
    """Raise :class:`PymlError` if the draft model is closed, or a token id means something else to it."""
    draft.check_open()
    known = _same.setdefault(engine, WeakSet())
    if draft in known:
        return
    ours, theirs = engine.tokenizer, draft.tokenizer
    if ours.vocab_size != theirs.vocab_size:
        raise PymlError(
            f"draft model {draft.name}: expected the vocabulary of {engine.name} ({ours.vocab_size} tokens), "
            f"found one of {theirs.vocab_size}"
        )
    for token in range(ours.vocab_size):
        expected, found = ours.token_bytes(token), theirs.token_bytes(token)
        if expected != found:
            raise PymlError(
                f"draft model {draft.name}: expected the vocabulary of {engine.name}, "
                f"found {quoted(found)} for token {token}, which is {quoted(expected)}"
            )
    known.add(draft)
