"""What a native program leaves out or does together, with the same numbers: found by a look at its operations."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from .graph import Buffer, Operation

if TYPE_CHECKING:
    from .program import Program

BLOCK = 32
"""Activations that share a scale."""


def codes_only(program: Program, attention: bool) -> list[Buffer]:
    """Buffers of whose rows the int8 copy alone is read, so that what writes it need not write their floats.

    Args:
        program: with all its operations.
        attention: whether attention, too, writes the int8 copy of its output itself.
    """
    read = {program.result}
    writers = ("rms_norm", "layer_norm", "activate", "gated", *(("attention",) if attention else ()))
    for op in program.operations:
        codes = op.kind in ("linear", "expert_linear") and all(matrix.quantized for matrix in op.params["matrices"])
        read.update(op.inputs[1:] if codes else op.inputs)
        if op.kind not in writers or op.params.get("accumulate"):
            read.add(op.output)
    return [buf for buf in program.buffers if buf.quantized and buf not in read]


def done_together(program: Program) -> list[tuple[Operation, Operation]]:
    """Linear layers and the activations that alone read their rows, of whole blocks and made for a quantised matrix."""
    pairs = [
        (first, second)
        for first, second in pairwise(program.operations)
        if first.kind == "linear" and second.kind in ("activate", "gated") and second.inputs == (first.output,)
        and not first.params["accumulate"] and not first.output.quantized and second.output.quantized
        and all(matrix.shape[0] % BLOCK == 0 for matrix in first.params["matrices"])
    ]  # fmt: skip
    activations = {second for _, second in pairs}
    read = {program.result, *(buf for op in program.operations if op not in activations for buf in op.inputs)}
    return [pair for pair in pairs if pair[0].output not in read]
