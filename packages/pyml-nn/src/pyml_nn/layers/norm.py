"""Normalisation layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from pyml_core.program import Program
    from pyml_core.records import Buffer

F32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class RMSNorm:
    """``x / sqrt(mean(x^2) + eps) * weight``. Source: Zhang and Sennrich 2019, arXiv 1910.07467.

    Attributes:
        weight: float32 (width).
        eps: number added to the mean square.
    """

    weight: F32Array
    eps: float

    def declare(self, program: Program, name: str, x: Buffer, out: Buffer, add_to: Buffer | None = None) -> Buffer:
        """Declare the norm of each row of x (T, width), written to ``out``, or added to it if ``add_to`` is ``out``."""
        return program.rms_norm(name, x, self.weight, self.eps, out, add_to)


@dataclass(frozen=True, eq=False)
class LayerNorm:
    """``(x - mean) / sqrt(var + eps) * weight + bias``. Source: Ba et al. 2016, arXiv 1607.06450.

    Attributes:
        weight: float32 (width).
        bias: float32 (width).
        eps: number added to the variance.
    """

    weight: F32Array
    bias: F32Array
    eps: float

    def declare(self, program: Program, name: str, x: Buffer, out: Buffer) -> Buffer:
        """Declare the norm of every row of x (T, width), written to ``out``."""
        return program.layer_norm(name, x, self.weight, self.bias, self.eps, out)
