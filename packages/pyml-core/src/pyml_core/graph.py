"""The parts of a program and the input of its runs: buffers, operations, the graph that holds them, and slices.

Letters: T = tokens of a run (all slices together), P = positions of a run that want logits, W = width of a buffer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .errors import ShapeError
from .kv_layout import KVLayout, PageTable
from .operation_kind import F32Array, OperationKind


class Buffer:
    """One activation of the model: float32 of shape (rows, width), where rows is T or P.

    Attributes:
        name: for messages and traces.
        width: W, elements of a row.
        rows: ``"tokens"`` (one row for each token of the run) or ``"outputs"`` (one for each wanted position).
        copies: rows of a token: 1, or the number of experts that each token is dispatched to.
        index: its place in the program.
        quantized: whether a quantised matrix reads it, so that it has an int8 copy (codes of each row, a scale and a
            sum of codes of each block of 32).
    """

    def __init__(self, name: str, width: int, rows: str = "tokens", copies: int = 1, index: int = -1) -> None:
        self.name, self.width, self.rows, self.copies, self.index = name, width, rows, copies, index
        self.quantized = False

    def __repr__(self) -> str:
        return f"Buffer({self.name!r}, {self.width}, {self.rows!r}, {self.copies})"


class Operation:
    """One step of a program.

    Attributes:
        kind: a name of :data:`pyml_core.ops.OPERATIONS` (``"linear"``, ``"rms_norm"``, ...).
        name: dotted name, unique in its program (``"layers.3.attention.qkv"``).
        inputs: buffers read.
        output: the buffer written.
        params: everything else: weights, eps, scale, ...
    """

    def __init__(
        self, kind: str, name: str, inputs: tuple[Buffer, ...], output: Buffer, params: Mapping[str, Any]
    ) -> None:
        self.kind, self.name, self.inputs, self.output, self.params = kind, name, inputs, output, params

    def __repr__(self) -> str:
        return f"Operation({self.kind!r}, {self.name!r})"


class Slice(NamedTuple):
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


class Graph:
    """Buffers and a flat list of operations: the part of a :class:`pyml_core.Program` that is declared.

    Attributes:
        kv: geometry of the sequences' KV pages, or None for a program without attention.
        buffers: in the order of their indices.
        operations: in the order of execution.
        result: output of the last operation.
        screening: the operations that replace the last one in runs for the largest outputs, or none.
        compiled: whether it has run, after which nothing can be declared.
        level: CPU level whose kernels run it.
        threads: threads that run it.
    """

    def __init__(self, kv: KVLayout | None, level: str, threads: int) -> None:
        self.kv = kv
        self.level = level
        self.threads = threads
        self.buffers: list[Buffer] = []
        self.operations: list[Operation] = []
        self.result: Buffer | None = None
        self.screening: tuple[Operation, ...] = ()
        self.compiled = False

    def buffer(self, name: str, width: int, rows: str = "tokens", copies: int = 1) -> Buffer:
        """Declare an activation of ``width`` float32 a row, with ``copies`` rows for each token.

        With ``rows="outputs"`` it has a row for each wanted position.

        Raises:
            ShapeError: a number below 1, unknown ``rows``, or copies of wanted positions.
        """
        if width < 1:
            raise ShapeError(f"{name}: expected a width of at least 1, got {width}")
        if rows not in ("tokens", "outputs"):
            raise ShapeError(f"{name}: expected rows 'tokens' or 'outputs', got {rows!r}")
        if copies < 1 or (copies > 1 and rows != "tokens"):
            raise ShapeError(f"{name}: expected 1 copy, or several of rows 'tokens', got {copies} of {rows!r}")
        buf = Buffer(name, width, rows, copies, index=len(self.buffers))
        self.buffers.append(buf)
        return buf

    def add(self, kind: OperationKind, name: str, inputs: tuple[Buffer, ...], out: Buffer, **params: Any) -> Buffer:
        """Append an operation whose parameters have been checked; returns the buffer that it writes.

        Raises:
            ShapeError: buffers of another program, or whose rows are not those of this kind of operation.
        """
        if self.compiled:
            raise ShapeError(f"{name}: the program has run already; declare every operation before its first run")
        if self.screening:
            raise ShapeError(f"{name}: nothing can come after {self.operations[-1].name}, which is screened")
        rows = out.rows if kind.rows == "each" else "tokens"
        for buf in (*inputs, out):
            if not 0 <= buf.index < len(self.buffers) or self.buffers[buf.index] is not buf:
                raise ShapeError(f"{name}: {buf.name} is not a buffer of this program")
            if buf.rows != rows and kind.rows != "selected":
                raise ShapeError(f"{name}: expected {buf.name} to have rows of {rows}, it has rows of {buf.rows}")
        if kind.rows not in ("dispatched", "combined"):  # these have looked at their routes
            for buf in (*inputs[:1], out):
                check_copies(name, buf, out.copies if kind.rows == "each" else 1)
        self.operations.append(Operation(kind.name, name, inputs, out, params))
        self.result = out
        return out

    def attention_layout(self, name: str, layer: int, n_heads: int, qkv: Buffer) -> KVLayout:
        """The KV layout, for an operation on ``qkv``.

        Raises:
            ShapeError: the program has no KV layout, or layer, heads or width do not fit it.
        """
        if self.kv is None:
            raise ShapeError(f"{name}: attention needs a program with a KV layout")
        if not 0 <= layer < self.kv.n_layers:
            raise ShapeError(f"{name}: layer {layer} is not in the KV layout's {self.kv.n_layers}")
        if n_heads % self.kv.n_kv_heads:
            raise ShapeError(f"{name}: {n_heads} heads do not divide into {self.kv.n_kv_heads} key/value heads")
        check_width(name, (n_heads + 2 * self.kv.n_kv_heads) * self.kv.head_dim, qkv)
        return self.kv


def check_width(name: str, expected: int, buf: Buffer) -> None:
    """ShapeError if a buffer has another width than an operation expects."""
    if buf.width != expected:
        raise ShapeError(f"{name}: expected {buf.name} to be {expected} wide, it is {buf.width}")


def check_copies(name: str, buf: Buffer, expected: int) -> None:
    """ShapeError if a buffer has another number of rows for each token than an operation expects."""
    if buf.copies != expected:
        raise ShapeError(f"{name}: expected {buf.name} to have {expected} rows a token, it has {buf.copies}")


def checked_weight(name: str, array: F32Array, ndim: int) -> F32Array:
    """A contiguous float32 array; ShapeError if it has another number of dimensions."""
    if array.ndim != ndim:
        raise ShapeError(f"{name}: expected a weight of {ndim} dimensions, got shape {array.shape}")
    return np.require(array, np.float32, ["C", "A"])
