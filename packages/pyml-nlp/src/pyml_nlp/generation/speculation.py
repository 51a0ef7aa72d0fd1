"""Speculative decoding: the next tokens of a text are drafted, and one run of the model checks all of them.

A run of a few tokens costs little more than a run of one, because both read every weight once. So the drafted tokens
run after the last token, and each position's token is chosen from its own logits, in order; the drafted ones are
accepted as long as they are the same. Logits are the same bits in runs of any length, and the noise of sampling belongs
to a position, so tokens and log probabilities are those of a generation without drafts.

Drafts come from the text itself (prompt look-up: the tokens that followed where its last tokens occurred before; Saxena
2023, https://github.com/apoorvumang/prompt-lookup-decoding), or from a smaller model (Leviathan et al. 2023, arXiv
2211.17192). Their length depends on the measured costs of runs and on how often drafts were right.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from typing import Protocol

MIN_MATCH = 3
"""Fewest tokens that must have occurred before for the tokens after them to be a draft."""

MAX_DRAFT = 24
"""Most drafted tokens in a run, of all texts together."""

MIN_SPEEDUP = 1.1
"""Drafts run if tokens are expected at this multiple of the speed without them, or more."""

EMA_ALPHA = 0.1
"""Weight of the newest observation."""

_DOUBT = 2  # observations that the expected rates count for
_LONGEST = 32  # longer matches count as this long
_BUCKETS = (3, 4, 6, 9, 14, 22)  # the shortest match of each group that shares a rate
_EXPECTED = (0.25, 0.4, 0.6, 0.75, 0.85, 0.9)  # how often the next token is right, before the first observation


class Drafter(Protocol):
    """Proposes how one text goes on."""

    @property
    def ms_per_token(self) -> float:
        """Milliseconds of drafting a token."""
        ...

    def chances(self, limit: int) -> list[float]:
        """The probability, for each of at most ``limit`` drafted tokens, that it and all before it are right."""
        ...

    def draft(self, count: int) -> list[int]:
        """The next ``count`` tokens, at most as many as there are chances."""
        ...

    def append(self, token: int) -> None:
        """The text went on with this token."""
        ...


class PromptLookup:
    """Drafts from the text's own past: a token index of it, and the place that the text seems to repeat.

    Args:
        ids: the prompt.

    Attributes:
        ids: the text so far.
    """

    ms_per_token = 0.0

    def __init__(self, ids: Sequence[int]) -> None:
        self.ids = array("i")
        self._ends: dict[tuple[int, ...], int] = {}  # the index after the last occurrence of each n-gram
        self._source: int | None = None  # index of what the next token should be
        self._match = 0  # tokens before it that are the same as the last ones
        self._rates = list(_EXPECTED)
        self._seen = [0] * len(_EXPECTED)
        self._index(ids[: -MIN_MATCH - 1])
        self._last = tuple(self.ids[1 - MIN_MATCH :])
        for token in ids[len(self.ids) :]:
            self.append(token)
        self._rates = list(_EXPECTED)
        self._seen = [0] * len(_EXPECTED)

    def chances(self, limit: int) -> list[float]:
        """See :class:`Drafter`."""
        if self._source is None:
            return []
        chances, chance = [], 1.0
        for match in range(self._match, self._match + limit):
            chance *= self._rates[_MATCH_PLACES[min(match, _LONGEST)]]
            chances.append(chance)
        return chances

    def draft(self, count: int) -> list[int]:
        """See :class:`Drafter`. A draft that reaches the end of the text goes on with itself: the text is in a loop."""
        if self._source is None:
            return []
        known = self.ids[self._source : self._source + count]
        period = len(known)
        return [known[i % period] for i in range(count)]

    def least_match(self, chance: float) -> int:
        """How many tokens must have occurred before for the next one to be this likely; 0: no number is enough."""
        return next((match for match, rate in zip(_BUCKETS, self._rates, strict=True) if rate >= chance), 0)

    def append(self, token: int) -> None:
        """See :class:`Drafter`. It shows whether a draft would have been right, also if none was run."""
        ids, source = self.ids, self._source
        right = source is not None and ids[source] == token
        if source is not None:
            bucket = _MATCH_PLACES[self._match]
            self._seen[bucket] += 1
            weight = max(EMA_ALPHA, 1 / (self._seen[bucket] + _DOUBT))  # the first observations count for more
            self._rates[bucket] += weight * (right - self._rates[bucket])
        ids.append(token)
        gram = (*self._last, token)
        self._last = gram[1 - MIN_MATCH :]
        if source is not None and right:
            self._source, self._match = source + 1, min(self._match + 1, _LONGEST)
        else:
            self._source = self._ends.get(gram)
            self._match = 0 if self._source is None else self._matching(self._source)
        self._ends[gram] = len(ids)

    def _index(self, ids: Sequence[int]) -> None:
        self.ids.extend(ids)
        grams = zip(*(ids[i:] for i in range(MIN_MATCH)), strict=False)
        self._ends.update(zip(grams, range(MIN_MATCH, len(ids) + 1), strict=False))

    def _matching(self, source: int) -> int:
        """How many tokens before ``source`` are the same as the last ones."""
        ids = self.ids
        end, longest = len(ids), min(source, _LONGEST)
        count = MIN_MATCH
        while count < longest and ids[source - count - 1] == ids[end - count - 1]:
            count += 1
        return count


class Costs:
    """The cost of a model's runs by their number of tokens, learned from runs.

    Threads may share it: it is an estimate, and no result depends on it.
    """

    def __init__(self) -> None:
        self._one: float | None = None  # ms of a run of one token
        # The cost of a further token as a part of it, minus the expected one; and the number of the run it is from.
        self._slopes = [(0.0, 0)] * len(_COST_BUCKETS)
        self._runs = 0
        self._now = [_SLOPE] * len(_COST_BUCKETS)

    def of(self, tokens: int) -> float:
        """Cost of a run, in units of one of a single token."""
        return 1.0 + self._now[_COST_PLACES[tokens] if tokens < len(_COST_PLACES) else -1] * (tokens - 1)

    @property
    def ms(self) -> float | None:
        """Milliseconds of a run of one token; None before there was any."""
        return self._one

    def learn(self, tokens: int, ms: float) -> None:
        """Record a run of ``tokens`` tokens that took ``ms`` milliseconds."""
        if self._one is None:
            self._one = ms / self.of(tokens)
        elif tokens == 1:
            self._one += 0.2 * (min(ms, 2 * self._one) - self._one)
        else:
            place = _COST_PLACES[min(tokens, len(_COST_PLACES) - 1)]
            # A run that was disturbed counts for at most twice the expected time.
            slope = (min(ms, 2 * self._one * self.of(tokens)) / self._one - 1) / (tokens - 1)
            known = self._now[place]
            self._slopes[place] = known + 0.2 * (max(slope, 0.0) - known) - _SLOPE, self._runs
        self._runs += 1
        # A length that has not run for long returns to its first estimate, and so to another try.
        self._now = [_SLOPE + slope * 0.999 ** (self._runs - run) for slope, run in self._slopes]


_COST_BUCKETS = (2, 5, 9, 17, 33)
_SLOPE = 0.08


def _places(bounds: Sequence[int], count: int) -> tuple[int, ...]:
    """For each number below ``count``: the index of the last bound that it reaches, or 0."""
    return tuple(max(0, bisect_right(bounds, number) - 1) for number in range(count))


_COST_PLACES = _places(_COST_BUCKETS, _COST_BUCKETS[-1] + 1)
_MATCH_PLACES = _places(_BUCKETS, _LONGEST + 1)


def plan(drafters: Sequence[tuple[Drafter | None, int]], costs: Costs) -> list[int]:
    """How many tokens to draft for each of the texts that run together.

    Args:
        drafters: of every text (or None), with the most tokens that it can use.
        costs: of the model.

    The tokens most likely to be right are taken, as many as give the most tokens for a run's time.
    """
    base = len(drafters)
    offers = [
        (chance, index, drafter.ms_per_token)
        for index, (drafter, limit) in enumerate(drafters)
        if drafter is not None
        for chance in drafter.chances(min(limit, MAX_DRAFT))
    ]
    counts = [0] * base
    if not offers:
        return counts
    if base > 1:
        offers.sort(key=lambda offer: -offer[0])  # a text's own stay in order, because its chances fall
    expected, drafting = float(base), 0.0
    best, chosen = base / costs.of(base) * MIN_SPEEDUP, 0
    for number, (chance, _, ms) in enumerate(offers[:MAX_DRAFT], 1):
        expected += chance
        drafting += ms / costs.ms if costs.ms else 0.0
        rate = expected / (costs.of(base + number) + drafting)
        if rate > best:
            best, chosen = rate, number
    for _, index, _ in offers[:chosen]:
        counts[index] += 1
    return counts
