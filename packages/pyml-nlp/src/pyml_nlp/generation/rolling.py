"""A context that goes on when it is full: the oldest tokens are forgotten, all that is left runs again.

Of a sequence that has come to the limit of the context stay its first ``keep`` tokens and the latest ones, as many as
fill half of the other room. They get new positions, and keys and values are computed anew, because those of the latest
ones know of the tokens before them and where they stood. So the text goes on exactly as after a prompt of these tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

ERROR, ROLL = "error", "roll"
POLICIES = (ERROR, ROLL)


def rolled(ids: Sequence[int], keep: int, limit: int) -> list[int]:
    """What stays of a sequence: its first ``keep`` tokens, and as many of the last as fill half of the other room.

    Args:
        ids: of more than half the limit.
        keep: at most half the limit.
        limit: most positions of the context.
    """
    latest = max(1, (limit - keep) // 2)
    return [*ids[:keep], *ids[max(keep, len(ids) - latest) :]]
