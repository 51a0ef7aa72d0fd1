"""Log probabilities of texts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pyml_core.cancel import CancelToken
from pyml_core.errors import Cancelled, PymlError

from ...logprob_entries import logprob_entries
from ..rows import Row
from .prompts import Prompts
from .work import Add, Rows, Work

if TYPE_CHECKING:
    from ...language_model import LanguageModel


class Scores(Work):
    """Scores the texts of rows, one after the other: a run of the model already has all tokens of a text.

    Args:
        lm: the model.
        prompts: makes the texts of rows.
        top: number of most probable tokens to report in each place; None: the sums alone.
    """

    def __init__(self, lm: LanguageModel, prompts: Prompts, top: int | None) -> None:
        self._lm = lm
        self._prompts = prompts
        self._top = top
        self._token = CancelToken()

    def results(self, rows: Rows, together: int, refuse: Add) -> Iterator[tuple[int, dict[str, Any]]]:
        """See :meth:`.Work.results`."""
        for index, row in rows:
            if self._token.cancelled:
                return
            try:
                with self._token:
                    result = self._result(row)
            except Cancelled:
                return
            except PymlError as error:
                result = {"id": row.id, "error": str(error)}
            yield index, result

    def cancel(self) -> None:
        """See :meth:`.Work.cancel`."""
        self._token.cancel()

    def _result(self, row: Row) -> dict[str, Any]:
        ids = self._prompts.ids(self._lm, self._prompts.item(row))
        scores = self._lm.score(ids, self._top or 0)
        total = sum(one.logprob for one in scores if one.logprob is not None)
        result: dict[str, Any] = {"id": row.id, "logprob": round(total, 6), "prompt_tokens": len(ids), "tokens": 0}
        if self._top is not None:
            pairs = [(one.logprob, one.top_logprobs) for one in scores]
            result["logprobs"] = logprob_entries(self._lm.tokenizer, ids, pairs)
        return result
