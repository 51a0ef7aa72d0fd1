"""Lowering: from a program to the records that the native program is built from.

Lowering decides which operations are fused, which float outputs need not be written, and where a pass that quantises
rows is inserted. None of these decisions changes a bit of the results. Nothing here calls native code.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from .errors import ShapeError
from .graph import Graph
from .operation_kind import Bound
from .ops import OPERATIONS
from .records import Buffer, NativeSpans, Operation

if TYPE_CHECKING:
    from .kv_layout import KVLayout
    from .tensor import PackedMatrix

F32Array = npt.NDArray[np.float32]

BLOCK = 32
"""Number of activations that share a scale."""

TILE_ROWS = 24
"""Maximum number of rows (tokens times grouped heads) that share the loads of a key block."""

NO_LIMIT = 1 << 31


class BufferRecord(NamedTuple):
    """An activation of the native program; its index is that of the program's buffer.

    Attributes:
        width: elements of a row.
        outputs: whether it has a row for each wanted position instead of one for each token.
        copies: rows for each token.
        quantized: whether it has an int8 copy.
        codes_only: whether only the int8 copy is read.
        routes: number of experts and number chosen for a token, if the buffer contains routes.
        order: index of the buffer of routes that its rows are sorted by, or -1.
    """

    width: int
    outputs: bool = False
    copies: int = 1
    quantized: bool = False
    codes_only: bool = False
    routes: tuple[int, int] | None = None
    order: int = -1


class OperationRecord(NamedTuple):
    """An operation of the native program, with the fields of ``pyml_op`` that do not change between runs.

    Attributes:
        kind: kind of the operation, or ``"quantize"``: make the int8 copy of ``output``.
        inputs: indices of the buffers read.
        output: index of the buffer written.
        matrices: packed matrices; with experts, the matrices of all experts in order.
        n_matrices: number of matrices whose outputs are adjacent: all, or those of one expert.
        vectors: norm weights, bias, table or frequencies.
        parts: for ``low_rank``: int64 (parts, 3), the adapter of each part and its first columns.
        screen: for operations of a screen: the operation that has the row statistics of the head.
    """

    kind: str
    inputs: tuple[int, ...]
    output: int
    matrices: Sequence[PackedMatrix] = ()
    n_matrices: int = 0
    vectors: tuple[F32Array | None, ...] = ()
    eps: float = 0.0
    scale: float = 1.0
    cap: float = 0.0
    layer: int = 0
    n_heads: int = 0
    window: int = 0
    activation: str = ""
    accumulate: bool = False
    normalize: bool = False
    bidirectional: bool = False
    parts: npt.NDArray[np.int64] | None = None
    screen: Operation | None = None


class Lowered(NamedTuple):
    """The records of a native program.

    Attributes:
        max_tokens: maximum number of tokens of a run.
        kv: geometry of the KV pages, or None.
        buffers: one for each buffer of the program.
        operations: native operations, in the order of execution.
        fusions: pairs of indices: a linear layer, and the activation that it applies to its own results.
        spans: indices of the first and last native operation of every operation of the program.
        result: index of the last operation's output.
        vocabulary: upper bound (exclusive) of token ids.
        positions: upper bound (exclusive) of positions.
        rope_sets: upper bound (exclusive) of the RoPE set of a slice.
        adapters: largest number of an adapter of a slice.
        needs_pages: whether slices need KV pages.
        tile_tokens: maximum number of tokens of an attention tile; 0 without a KV layout.
    """

    max_tokens: int
    kv: KVLayout | None
    buffers: list[BufferRecord]
    operations: list[OperationRecord]
    fusions: list[tuple[int, int]]
    spans: NativeSpans
    result: int
    vocabulary: int
    positions: int
    rope_sets: int
    adapters: int
    needs_pages: bool
    tile_tokens: int


def lower(program: Graph, max_tokens: int) -> Lowered:
    """Return the records of a program, for runs of up to ``max_tokens`` tokens.

    Raises:
        ShapeError: there are no operations, a quantised matrix reads rows that are not whole blocks, or routes of two
            sizes are written to one buffer.
    """
    if program.result is None:
        raise ShapeError("the program has no operations")
    for buf in program.buffers:
        if buf.quantized and buf.width % BLOCK:
            raise ShapeError(
                f"{buf.name}: expected a width that is a multiple of {BLOCK} for a quantised matrix, got {buf.width}"
            )
    whole = program.kv is None or program.kv.head_dim % BLOCK == 0
    operations: list[OperationRecord] = []
    spans = NativeSpans()
    for op in (*program.operations, *program.screening, *program.settling):
        first = len(operations)
        operations.append(_record(op))
        if op.output.quantized and writes_pieces(op, whole):
            operations.append(OperationRecord("quantize", (), op.output.index))
        spans[op] = (first, len(operations) - 1)
    bounds = _bounds(program)
    return Lowered(
        max_tokens,
        program.kv,
        _buffers(program, {buf.index for buf in find_codes_only(program, whole)}),
        operations,
        [(spans[one][0], spans[other][0]) for one, other in find_fusions(program)],
        spans,
        program.result.index,
        bounds.get("vocabulary", NO_LIMIT),
        bounds.get("positions", NO_LIMIT),
        bounds.get("rope_sets", NO_LIMIT),
        max((part.adapter for op in program.operations for part in op.params.get("parts", ())), default=0),
        any(OPERATIONS[op.kind].needs_pages for op in program.operations),
        _tile_tokens(program),
    )


def writes_pieces(op: Operation, whole_blocks: bool) -> bool:
    """Whether several threads write parts of one row, so that a separate pass has to quantise it.

    Args:
        op: an operation whose output has an int8 copy.
        whole_blocks: whether a head is a whole number of activation blocks; attention then quantises its output.
    """
    writes = OPERATIONS[op.kind].writes
    return writes == "pieces" or (writes == "heads" and not whole_blocks)


def find_codes_only(program: Graph, whole_blocks: bool) -> list[Buffer]:
    """Return the buffers of which only the int8 copy is read, so that their floats need not be written."""
    read = {program.result}
    for op in program.operations:
        matrices = op.params.get("matrices", ())
        read.update(op.inputs[1:] if matrices and all(matrix.quantized for matrix in matrices) else op.inputs)
        if not OPERATIONS[op.kind].codes_only or writes_pieces(op, whole_blocks) or op.params.get("accumulate"):
            read.add(op.output)
    return [buf for buf in program.buffers if buf.quantized and buf not in read]


def find_fusions(program: Graph) -> list[tuple[Operation, Operation]]:
    """Return pairs of a linear layer and an activation that it can apply to its own results, tile by tile.

    The activation must be the only reader of the layer's output, and the outputs of each matrix must be whole blocks.
    Fusion is worthwhile if a quantised matrix reads the activation's output.
    """
    pairs = [
        (first, second)
        for first, second in pairwise(program.operations)
        if first.kind == "linear" and OPERATIONS[second.kind].fusable and second.inputs == (first.output,)
        and not first.params["accumulate"] and not first.output.quantized and second.output.quantized
        and all(matrix.shape[0] % BLOCK == 0 for matrix in first.params["matrices"])
    ]  # fmt: skip
    activations = {second for _, second in pairs}
    read = {program.result, *(buf for op in program.operations if op not in activations for buf in op.inputs)}
    return [pair for pair in pairs if pair[0].output not in read]


def _record(op: Operation) -> OperationRecord:
    q, kind = op.params, OPERATIONS[op.kind]
    matrices = q.get(kind.matrices, ())
    if not isinstance(matrices, tuple):
        matrices = (matrices,)
    return OperationRecord(
        op.kind,
        tuple(buf.index for buf in (*op.inputs, *q.get("scratch", ()))),
        op.output.index,
        matrices,
        len(matrices) // q.get("n_experts", 1),
        tuple(q[name] for name in kind.vectors),
        q.get("eps", 0.0),
        q.get("scale", q.get("z_score", 1.0)),
        q.get("cap", q.get("soft_cap", 0.0)),
        q.get("layer", q.get("round", 0)),
        q.get("n_heads", 0),
        q.get("window", 0),
        q.get("activation", ""),
        q.get("accumulate", False),
        q.get("normalize", False),
        q.get("bidirectional", False),
        q.get("columns"),
        op if "z_score" in q else None,
    )


def _bounds(program: Graph) -> dict[Bound, int]:
    """Return the number of rows of the smallest table for each bound."""
    found: dict[Bound, int] = {}
    for op in program.operations:
        kind = OPERATIONS[op.kind]
        if kind.bound is not None:
            rows: int = op.params[kind.matrices or kind.vectors[0]].shape[0]
            found[kind.bound] = min(rows, found.get(kind.bound, NO_LIMIT))
    return found


def _buffers(program: Graph, codes_only: set[int]) -> list[BufferRecord]:
    """Return the buffer records. Rows of experts are sorted by the routes; row-wise operations keep that order."""
    routes: dict[int, tuple[int, int]] = {}
    order: dict[int, int] = {}
    for op in program.operations:
        out, rows = op.output.index, OPERATIONS[op.kind].rows
        if op.kind == "route":
            sizes = op.inputs[0].width, op.params["n_chosen"]
            known = routes.setdefault(out, sizes)  # layers share the buffer
            if known != sizes:
                raise ShapeError(
                    f"{op.name}: expected {known[1]} of {known[0]} experts as before, got {sizes[1]} of {sizes[0]}"
                )
        if rows == "dispatched":
            order[out] = op.inputs[1].index
        elif op.inputs and rows not in ("combined", "selected"):
            order[out] = order.get(op.inputs[0].index, -1)
    return [
        BufferRecord(
            buf.width, buf.rows == "outputs", buf.copies, buf.quantized, index in codes_only,
            routes.get(index), order.get(index, -1),
        )
        for index, buf in enumerate(program.buffers)
    ]  # fmt: skip


def _tile_tokens(program: Graph) -> int:
    if program.kv is None:
        return 0
    heads: list[int] = [op.params["n_heads"] for op in program.operations if op.kind == "attention"]
    group = max((count // program.kv.n_kv_heads for count in heads), default=1)
    return max(1, TILE_ROWS // group)
