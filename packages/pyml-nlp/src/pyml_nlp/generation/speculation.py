"""Several tokens a run: what a text may go on with is drafted, and one run of the model checks all of it.

A run of a few tokens costs little more than that of one, because both read every weight once. So the drafted tokens are
run behind the last token, and every position's token is chosen from its own logits, in order, as ever; the drafted ones
count as long as they are the same. Logits are the same bits however many tokens run together, and the noise of sampling
belongs to a position, so tokens and log probabilities are those of a generation without drafts.

Drafts come from the text itself (prompt look-up: where its last tokens occurred before, what followed; Saxena 2023,
https://github.com/apoorvumang/prompt-lookup-decoding), or from a smaller model (Leviathan et al. 2023, arXiv
2211.17192). How long they are depends on what runs of so many tokens have cost and on how often drafts were right.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from typing import Protocol

MIN_MATCH = 3
"""Fewest tokens that must have occurred before, for what followed them to be a draft."""

MAX_DRAFT = 24
"""Most drafted tokens in a run, of all texts together."""

WORTH = 1.1
"""Drafts are run if tokens are expected to come so many times as fast as without."""

FORGET = 0.1
"""Weight of the newest observation."""

_DOUBT = 2  # observations that what is expected counts for
_LONGEST = 32  # matches are not counted further
_BUCKETS = (3, 4, 6, 9, 14, 22)  # matches of at least so many tokens count together
_EXPECTED = (0.25, 0.4, 0.6, 0.75, 0.85, 0.9)  # how often the next token is right, before anything was seen


class Drafter(Protocol):
    """Proposes how one text goes on."""

    @property
    def ms_per_token(self) -> float:
        """Milliseconds of drafting a token."""
        ...

    def chances(self, limit: int) -> list[float]:
        """Of each of the next drafted tokens, at most ``limit``: how likely it and all before it are right."""
        ...

    def draft(self, count: int) -> list[int]:
        """The next ``count`` tokens, at most as many as there are chances."""
        ...

    def append(self, token: int) -> None:
        """The text went on with this token."""
        ...


class LookUp:
    """Drafts from the text's own past: a token index of it, and the place that the text seems to repeat.

    Args:
        ids: the prompt.

    Attributes:
        ids: the text so far.
    """

    ms_per_token = 0.0

    def __init__(self, ids: Sequence[int]) -> None:
        self.ids = array("i")
        self._ends: dict[tuple[int, ...], int] = {}  # after the last occurrence of so many tokens
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
        """How many tokens must have occurred before for the next one to be this likely; 0: however many, it is not."""
        return next((match for match, rate in zip(_BUCKETS, self._rates, strict=True) if rate >= chance), 0)

    def append(self, token: int) -> None:
        """See :class:`Drafter`. Whether a draft would have been right is known without running it."""
        ids, source = self.ids, self._source
        right = source is not None and ids[source] == token
        if source is not None:
            bucket = _MATCH_PLACES[self._match]
            self._seen[bucket] += 1
            weight = max(FORGET, 1 / (self._seen[bucket] + _DOUBT))  # what is expected gives way soon
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
    """What runs of a model cost by their number of tokens, learned from those that were run.

    Threads may share it: it is a guess at any time, and no result depends on it.
    """

    def __init__(self) -> None:
        self._one: float | None = None  # ms of a run of one token
        # Cost of a further token in parts of it, minus what is expected; and the number of the run that it is from.
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
        """A run of so many tokens took so long."""
        if self._one is None:
            self._one = ms / self.of(tokens)
        elif tokens == 1:
            self._one += 0.2 * (min(ms, 2 * self._one) - self._one)
        else:
            place = _COST_PLACES[min(tokens, len(_COST_PLACES) - 1)]
            # A run that was disturbed counts for twice what was expected at most.
            slope = (min(ms, 2 * self._one * self.of(tokens)) / self._one - 1) / (tokens - 1)
            known = self._now[place]
            self._slopes[place] = known + 0.2 * (max(slope, 0.0) - known) - _SLOPE, self._runs
        self._runs += 1
        # What is not tried for long is worth a new try: it comes to be expected to cost what it was at first.
        self._now = [_SLOPE + slope * 0.999 ** (self._runs - run) for slope, run in self._slopes]


_COST_BUCKETS = (2, 5, 9, 17, 33)
_SLOPE = 0.08


def _places(bounds: Sequence[int], count: int) -> tuple[int, ...]:
    """Of each number below ``count``: the index of the last bound that it reaches, or 0."""
    return tuple(max(0, bisect_right(bounds, number) - 1) for number in range(count))


_COST_PLACES = _places(_COST_BUCKETS, _COST_BUCKETS[-1] + 1)
_MATCH_PLACES = _places(_BUCKETS, _LONGEST + 1)


def plan(drafters: Sequence[tuple[Drafter | None, int]], costs: Costs) -> list[int]:
    """How many tokens to draft for each of the texts that run together.

    Args:
        drafters: of every text (or None), with the most tokens that it can use.
        costs: of the model.

    Those most likely to be right come first, and as many of them as give the most tokens for a run's time.
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
        offers.sort(key=lambda offer: -offer[0])  # of one text in order, because its chances fall
    expected, drafting = float(base), 0.0
    best, chosen = base / costs.of(base) * WORTH, 0
    for number, (chance, _, ms) in enumerate(offers[:MAX_DRAFT], 1):
        expected += chance
        drafting += ms / costs.ms if costs.ms else 0.0
        rate = expected / (costs.of(base + number) + drafting)
        if rate > best:
            best, chosen = rate, number
    for _, index, _ in offers[:chosen]:
        counts[index] += 1
    return counts
