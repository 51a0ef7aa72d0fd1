"""The declared part of a program: a graph of buffers and operations.

Letters: W = width of a buffer.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .errors import ShapeError
from .kv_layout import KVLayout
from .operation_kind import F32Array, OperationKind
from .records import Buffer, Operation


class Graph:
    """Buffers and a flat list of operations: the declared part of a :class:`pyml_core.Program`.

    Attributes:
        kv: geometry of the sequences' KV pages, or None for a program without attention.
        buffers: all buffers, in the order of their indices.
        operations: all operations, in the order of execution.
        result: output of the last operation.
        screening: the operations that replace the last one in runs for the largest outputs; empty without a screen.
        settling: the operations that follow them in runs that choose tokens; empty without a screen.
        compiled: whether the program has run; after that, nothing can be declared.
        level: CPU level of its kernels.
        threads: number of threads.
    """

    def __init__(self, kv: KVLayout | None, level: str, threads: int) -> None:
        self.kv = kv
        self.level = level
        self.threads = threads
        self.buffers: list[Buffer] = []
        self.operations: list[Operation] = []
        self.result: Buffer | None = None
        self.screening: tuple[Operation, ...] = ()
        self.settling: tuple[Operation, ...] = ()
        self.compiled = False

    def buffer(self, name: str, width: int, rows: str = "tokens", copies: int = 1) -> Buffer:
        """Declare an activation with rows of ``width`` float32 numbers, ``copies`` rows for each token.

        With ``rows="outputs"`` it has one row for each wanted position instead.

        Raises:
            ShapeError: ``width`` or ``copies`` is below 1, ``rows`` is unknown, or several copies of ``"outputs"``.
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
        """Append an operation whose parameters have been checked, and return its output buffer.

        Raises:
            ShapeError: a buffer belongs to another program, or has the wrong rows for this kind of operation; or the
                program has run, or ends with a screened operation.
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
        if kind.rows not in ("dispatched", "combined"):  # these are checked with their routes
            for buf in (*inputs[:1], out):
                check_copies(name, buf, out.copies if kind.rows == "each" else 1)
        self.operations.append(Operation(kind.name, name, inputs, out, params))
        self.result = out
        return out

    def attention_layout(self, name: str, layer: int, n_heads: int, qkv: Buffer) -> KVLayout:
        """Return the KV layout, for an operation on ``qkv``.

        Raises:
            ShapeError: the program has no KV layout, or it does not fit ``layer``, ``n_heads`` or the width of ``qkv``.
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
    """Raise ShapeError if the width of ``buf`` is not ``expected``."""
    if buf.width != expected:
        raise ShapeError(f"{name}: expected {buf.name} to be {expected} wide, it is {buf.width}")


def check_copies(name: str, buf: Buffer, expected: int) -> None:
    """Raise ShapeError if the rows of ``buf`` for each token are not ``expected``."""
    if buf.copies != expected:
        raise ShapeError(f"{name}: expected {buf.name} to have {expected} rows a token, it has {buf.copies}")


def checked_weight(name: str, array: F32Array, ndim: int) -> F32Array:
    """Return ``array`` as contiguous float32. Raises ShapeError if it does not have ``ndim`` dimensions."""
    if array.ndim != ndim:
        raise ShapeError(f"{name}: expected a weight of {ndim} dimensions, got shape {array.shape}")
    return np.require(array, np.float32, ["C", "A"])
