"""Linear layers.

Letters: T = tokens of a run, N = outputs, K = inputs.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from pyml_core.ops.low_rank import LowRank
    from pyml_core.records import Buffer
    from pyml_core.tensor import PackedMatrix

    from .scratch import Scratch

F32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Linear:
    """``x @ concat(matrices).T + bias``: one or more matrices (N_i, K) with a common input, as one operation.

    Attributes:
        matrices: the outputs are concatenated in this order; block types may differ.
        bias: float32 (sum of N_i), or None.
        adapters: the terms of adapters, which sequences choose.
    """

    matrices: tuple[PackedMatrix, ...]
    bias: F32Array | None = None
    adapters: tuple[LowRank, ...] = ()

    @property
    def width(self) -> int:
        """Number of outputs: the sum of N_i."""
        return sum(matrix.shape[0] for matrix in self.matrices)

    def declare(self, scratch: Scratch, name: str, x: Buffer, out: Buffer, accumulate: bool = False) -> Buffer:
        """Declare ``out = ...``, or ``out += ...`` with ``accumulate``; x is (T, K), out (T, width).

        With adapters, the operation ``<name>_lora`` follows.
        """
        scratch.program.linear(name, x, self.matrices, out, self.bias, accumulate)
        if self.adapters:
            ranks = Counter[int]()
            for term in self.adapters:
                ranks[term.adapter] += term.a.shape[0]
            width = max(ranks.values())
            low = scratch.buffer(f"lora_{width}", width)
            scratch.program.low_rank(f"{name}_lora", x, self.adapters, low, out)
        return out
