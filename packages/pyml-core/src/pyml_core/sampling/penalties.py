"""Rules that change logits: bias, and penalties for tokens that the text already has.

Letters: V = vocabulary size, C = candidates, S = different tokens seen. Each rule returns new logits and does not
change its arguments. A logit beyond float32 becomes the largest float32, or minus infinity, which excludes its token.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from .arrays import F32_MAX, F32_TINY, F32Array, IdArray

_F64_MAX = float(np.finfo(np.float64).max)


class History:
    """The different tokens of a sequence, and how often each was generated.

    Args:
        prompt: token ids of the prompt.
        generated: token ids generated so far.
    """

    def __init__(self, prompt: Iterable[int] = (), generated: Iterable[int] = ()) -> None:
        self._slots = {token: slot for slot, token in enumerate(dict.fromkeys(prompt))}
        self._ids = np.fromiter(self._slots, np.int64)
        self._counts = np.zeros(len(self._slots), np.int64)
        for token in generated:
            self.add(token)

    def add(self, token: int) -> None:
        """Count one more generated token."""
        slot = self._slots.setdefault(token, len(self._slots))
        if slot == self._ids.size:  # double the room, so that adding takes amortised constant time
            self._ids = np.concatenate([self._ids, np.empty(slot + 64, np.int64)])
            self._counts = np.concatenate([self._counts, np.zeros(slot + 64, np.int64)])
        self._ids[slot] = token
        self._counts[slot] += 1

    @property
    def seen(self) -> IdArray:
        """The different token ids, (S,), in the order of their first occurrence."""
        return self._ids[: len(self._slots)]

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """How often each token of :attr:`seen` was generated, (S,)."""
        return self._counts[: len(self._slots)]


def penalize_repetition(logits: F32Array, seen: IdArray, penalty: float, ids: IdArray | None = None) -> F32Array:
    """Make each token in ``seen`` less likely: its logit divided by ``penalty``, or multiplied if negative.

    A token counts once, even if it occurs several times, so that the penalty does not grow with the length of the text.
    Tokens of the prompt count too. Source: Keskar et al. 2019, arXiv 1909.05858, section 4.1, as in Hugging Face
    transformers' ``RepetitionPenaltyLogitsProcessor``.

    Args:
        logits: float32 (V,), or (C,) with ``ids``.
        seen: token ids (S,), each once.
        ids: token ids of the logits, ascending; None: 0, 1, 2, ...
    """
    rows, _ = _rows(seen, ids, logits.size)
    changed = logits.copy()
    values = changed[rows]
    factor = np.float32(min(max(penalty, F32_TINY), F32_MAX))
    with np.errstate(over="ignore"):
        changed[rows] = np.minimum(np.where(values > 0, values / factor, values * factor), np.float32(F32_MAX))
    return changed


def subtract(
    logits: F32Array, tokens: IdArray, amounts: npt.NDArray[np.float64], ids: IdArray | None = None
) -> F32Array:
    """Subtract amounts from the logits of the tokens ``tokens``.

    The frequency penalty subtracts the penalty times the number of occurrences of the token in generated text. The
    presence penalty subtracts it once if the token was generated. A bias is subtracted with the opposite sign.
    Source: OpenAI's API reference, ``frequency_penalty``, ``presence_penalty`` and ``logit_bias``, which also count
    only generated text.

    Args:
        logits: float32 (V,), or (C,) with ``ids``.
        tokens: token ids (S,), each once.
        amounts: float64 (S,); infinity excludes a token.
        ids: token ids of the logits, ascending; None: 0, 1, 2, ...
    """
    rows, there = _rows(tokens, ids, logits.size)
    changed = logits.copy()
    with np.errstate(over="ignore"):
        lower = changed[rows] - np.maximum(amounts[there], -_F64_MAX)  # no infinity: that of another sign may be there
        changed[rows] = np.minimum(lower, F32_MAX).astype(np.float32)
    return changed


def _rows(tokens: IdArray, ids: IdArray | None, size: int) -> tuple[IdArray, npt.NDArray[np.bool_]]:
    """Return the indices of tokens among the candidates, and a mask of the tokens that are candidates."""
    if ids is None:
        there = tokens < size
        return tokens[there], there
    rows = np.searchsorted(ids, tokens)
    there = ids[np.minimum(rows, ids.size - 1)] == tokens
    return rows[there], there
