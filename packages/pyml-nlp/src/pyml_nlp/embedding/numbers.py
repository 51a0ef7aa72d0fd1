"""Vectors as numbers of JSON."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pyml_core.errors import PymlError

F32Array = npt.NDArray[np.float32]


def plain_numbers(vector: F32Array) -> list[float]:
    """A vector as numbers of nine digits, which tell all of float32 apart: they are the same in float32.

    Raises:
        PymlError: it has a number that is not finite, which JSON cannot say.
    """
    if not np.isfinite(vector).all():
        raise PymlError("the vector has numbers that are not finite: the model's weights are damaged")
    return [float(f"{number:.9g}") for number in vector.tolist()]
