"""Context shift: when the context is full, the oldest tokens are dropped and the rest is computed again.

When a sequence reaches the context limit, its first ``n_keep`` tokens and the most recent ones are retained; the latter
fill half of the remaining positions. All of them get new positions, and their keys and values are computed again,
because those of the most recent tokens depend on the tokens before them. So the text goes on exactly as after a prompt
of the retained tokens.
"""

from __future__ import annotations

from collections.abc import Sequence


def retained(ids: Sequence[int], n_keep: int, limit: int) -> list[int]:
    """The ids that a context shift retains.

    Args:
        ids: a sequence of more than half the limit.
        n_keep: number of tokens to keep at the beginning, at most half the limit.
        limit: maximum number of positions of the context.
    """
    latest = max(1, (limit - n_keep) // 2)
    return [*ids[:n_keep], *ids[max(n_keep, len(ids) - latest) :]]
