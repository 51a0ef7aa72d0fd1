"""The end of a model: from the residual stream to logits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .linear import F32Array, Linear
from .norm import LayerNorm, RMSNorm

if TYPE_CHECKING:
    from pyml_core.records import Buffer
    from pyml_core.tensor import PackedMatrix

    from .scratch import Scratch


def declare_head(
    scratch: Scratch,
    hidden: Buffer,
    norm: LayerNorm | RMSNorm,
    head: PackedMatrix,
    soft_cap: float = 0.0,
    bias: F32Array | None = None,
) -> Buffer:
    """Declare the end of a model: selection of positions, norm, logits (``soft_cap`` 0: not capped).

    A capped head is not screened: the cap may round different logits to equal ones, and the screen, which works on
    logits before the cap, would not notice. Neither is a head with a bias (V), whose rows the screen cannot compare.
    """
    program = scratch.program
    selected = program.select("select", hidden, scratch.buffer("selected", hidden.width, "outputs"))
    normed = norm.declare(program, "final_norm", selected, scratch.buffer("final_normed", hidden.width, "outputs"))
    out = scratch.buffer("logits", head.shape[0], "outputs")
    logits = Linear((head,), bias).declare(scratch, "head", normed, out)
    if soft_cap:
        return program.soft_cap("head.soft_cap", logits, soft_cap)
    if head.split and bias is None:
        program.screen()
    return logits
