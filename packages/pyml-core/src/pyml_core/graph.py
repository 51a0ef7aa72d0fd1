"""What a program is made of, and what a run of it is given: buffers, operations, slices. Records without behaviour.

Letters: T = tokens of a run (all slices together), P = positions of a run that want logits, W = width of a buffer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .kv_layout import PageTable


@dataclass(eq=False)
class Buffer:
    """One activation of the model: float32 of shape (rows, width), where rows is T or P.

    Attributes:
        name: for messages and traces.
        width: W, elements a row.
        rows: ``"tokens"`` (one row a token of the run) or ``"outputs"`` (one row a position that wants logits).
        copies: rows a token: 1, or the number of experts that each token is dispatched to.
        quantized: a quantised matrix reads this buffer, so that whatever writes it also writes an int8 copy
            (codes per row, a scale and a sum of codes per block of 32).
    """

    name: str
    width: int
    rows: str = "tokens"
    copies: int = 1
    quantized: bool = False
    index: int = -1


@dataclass(frozen=True, eq=False)
class Operation:
    """One step of a program.

    Attributes:
        kind: what is done, a method name of :class:`Program` (``"linear"``, ``"rms_norm"``, ...).
        name: dotted name, unique in its program (``"layers.3.attention.qkv"``).
        inputs: buffers read.
        output: the buffer written.
        params: everything else: weights, eps, scale, ...
    """

    kind: str
    name: str
    inputs: tuple[Buffer, ...]
    output: Buffer
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Slice:
    """Consecutive tokens of one sequence in a run.

    Attributes:
        pages: the sequence's KV pages, enough for ``start + len(ids)`` positions (see :mod:`pyml_core.kv_layout`);
            a :class:`PageTable` is used as it is, other sequences are looked up page by page at every run.
        start: position of the first token, which is also the number of positions already in the pages.
        ids: token ids.
        outputs: indices into ``ids`` of the positions that want logits, ascending.
        rope_set: which of the sets of frequencies of :meth:`Program.rope_angles` its tokens are rotated with.
    """

    pages: PageTable | Sequence[npt.NDArray[np.uint8]]
    start: int
    ids: Sequence[int] | npt.NDArray[np.int32]
    outputs: Sequence[int] = ()
    rope_set: int = 0
