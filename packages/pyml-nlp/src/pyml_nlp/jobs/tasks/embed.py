"""Vectors of texts, by an embedding model."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from pyml_core.errors import Cancelled, PymlError

from ...embedding.numbers import plain_numbers
from ..rows import Row
from .prompts import Prompts
from .work import Add, Rows, Work

if TYPE_CHECKING:
    from ...embedding.embedder import Embedder


class Vectors(Work):
    """Embeds the texts of rows, several at a time. Texts longer than the model allows are cut.

    Args:
        embedder: the model.
        prompts: makes the texts of rows.
    """

    def __init__(self, embedder: Embedder, prompts: Prompts) -> None:
        self._embedder = embedder
        self._prompts = prompts
        self._cancelled = False

    def results(self, rows: Rows, together: int, refuse: Add) -> Iterator[tuple[int, dict[str, Any]]]:
        """See :meth:`.Work.results`."""
        while not self._cancelled and (group := list(islice(rows, together))):
            taken: list[tuple[int, Row]] = []
            ids: list[list[int]] = []
            for index, row in group:
                try:
                    ids.append(self._ids(row))
                except PymlError as error:
                    refuse(index, {"id": row.id, "error": str(error)})
                else:
                    taken.append((index, row))
            if self._cancelled or not ids:
                continue
            try:
                vectors = self._embedder.embed_ids(ids)
            except Cancelled:
                return
            for (index, row), tokens, vector in zip(taken, ids, vectors, strict=True):
                try:
                    numbers = plain_numbers(vector)
                except PymlError as error:
                    yield index, {"id": row.id, "error": str(error)}
                else:
                    yield index, {"id": row.id, "prompt_tokens": len(tokens), "tokens": 0, "embedding": numbers}

    def cancel(self) -> None:
        """See :meth:`.Work.cancel`."""
        self._cancelled = True
        self._embedder.cancel()

    def _ids(self, row: Row) -> list[int]:
        item = self._prompts.item(row)
        if item.messages is not None:
            raise PymlError("expected a text to embed, got messages")
        if item.options:
            raise PymlError(f"{next(iter(item.options))}: is an option of texts, which a vector has not")
        return self._embedder.token_ids([item.prompt])[0]
