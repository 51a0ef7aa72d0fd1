"""The base of encoders: token ids in, a hidden state for each token out; every token sees its whole text.

Letters: T = tokens of a text, W = hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pyml_core.errors import ShapeError
from pyml_core.kv_layout import PAGE_TOKENS, KVLayout, PageTable
from pyml_core.locks import Lock
from pyml_core.records import Slice

from .batching import checked_ids
from .errors import ContextOverflowError
from .network import C, Network
from .weights import Weights, WeightSource

if TYPE_CHECKING:
    from pyml_core.tensor import Tensor

F32Array = npt.NDArray[np.float32]

MAX_TEXTS = 64
"""Maximum number of texts of one run: each has pages of its own, however short it is."""


class Piece(NamedTuple):
    """A part of a text in a run.

    Attributes:
        text: number of the text.
        start, stop: its tokens; pieces of one text run one after the other, each alone.
    """

    text: int
    start: int
    stop: int


class Encoder(Network[C]):
    """A bidirectional encoder: token ids in, hidden states out.

    Args:
        config: the configuration of its architecture.
        weights: as of :class:`pyml_nn.Model`.
        dtype: type of the matrices, as of :class:`pyml_nn.Model`.
        threads: number of worker threads; None: a number that suits the machine.
        max_tokens: maximum number of tokens of one run of the program; at least the longest text, which is never cut.

    Attributes ``config``, ``n_params``, ``weight_bytes``, ``fingerprint``: as of :class:`pyml_nn.Model`. ``kv_layout``
    is the geometry of one layer's keys and values: they are read in the same run only, so that all layers share them.

    Raises:
        WeightsError: a weight is missing, unknown or of another shape.
        OutOfMemoryError: the weights do not fit in memory; nothing has been read.
    """

    def __init__(
        self,
        config: C,
        weights: Weights | WeightSource | Mapping[str, npt.NDArray[Any] | Tensor],
        dtype: str = "auto",
        threads: int | None = None,
        max_tokens: int = 512,
    ) -> None:
        super().__init__(config, weights, dtype, threads, max(max_tokens, self._longest(config)), False, "auto")
        self._pages: list[npt.NDArray[np.uint8]] = []
        self._lock = Lock()  # runs share the pages

    @staticmethod
    def _layout(config: C, reader: Weights, kv_dtype: str) -> KVLayout:
        return replace(Network._layout(config, reader, kv_dtype), n_layers=1)

    @staticmethod
    def _longest(config: C) -> int:
        """The number of tokens that a run must have room for: a whole text."""
        return config.context_length

    def encode(self, texts: Sequence[Sequence[int]]) -> list[F32Array]:
        """Return the last hidden states of each text, float32 (T, W), in the order of the texts.

        Texts of similar lengths run together. The numbers of a text do not depend on the others, bit for bit.

        Raises:
            ShapeError: a text has no ids, or one outside the vocabulary.
            ContextOverflowError: a text has more ids than the model has positions; nothing has been computed.
            Cancelled: :meth:`cancel` was called.
        """
        checked = [checked_ids(ids, self.vocab_size, number) for number, ids in enumerate(texts)]
        for number, ids in enumerate(checked):
            if len(ids) > self.context_length:
                raise ContextOverflowError(
                    f"text {number}: expected at most {self.context_length} tokens (the model's positions), "
                    f"got {len(ids)}"
                )
        found: list[F32Array] = [np.empty((0, 0), np.float32)] * len(checked)
        runs = self._runs(list(map(len, checked)))
        with self._lock:
            batches = [self._slices(run, checked) for run in runs]
            for run, batch in zip(runs, self._uncancelled(batches), strict=True):
                rows, start = self.program.run(batch), 0
                for piece, part in zip(run, batch, strict=True):
                    part_rows = rows[start : start + len(part.ids)]
                    found[piece.text] = np.concatenate([found[piece.text], part_rows]) if piece.start else part_rows
                    start += len(part.ids)
        return found

    def _runs(self, lengths: Sequence[int]) -> list[list[Piece]]:
        """The pieces of each run, for texts of these lengths."""
        return [[Piece(text, 0, lengths[text]) for text in run] for run in cut(lengths, self._max_tokens)]

    def _slices(self, pieces: Sequence[Piece], texts: Sequence[Sequence[int]]) -> list[Slice]:
        """One slice for each piece, with pages that later runs overwrite."""
        slices, used = [], 0
        for piece in pieces:
            count = -(-piece.stop // PAGE_TOKENS)
            while len(self._pages) < used + count:
                self._pages.append(self.kv_layout.new_page())
            pages = PageTable(self._pages[used : used + count])
            slices.append(Slice(pages, piece.start, texts[piece.text][piece.start : piece.stop]))
            used += count
        return slices


def cut(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Divide texts of these lengths into runs of at most ``max_tokens`` tokens: their numbers, the longest first.

    Raises:
        ShapeError: a text is longer than a run.
    """
    runs: list[list[int]] = []
    room = 0
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        if lengths[number] > max_tokens:
            raise ShapeError(f"text {number}: expected at most {max_tokens} tokens, got {lengths[number]}")
        if lengths[number] > room or len(runs[-1]) == MAX_TEXTS:
            runs.append([])
            room = max_tokens
        runs[-1].append(number)
        room -= lengths[number]
    return runs
