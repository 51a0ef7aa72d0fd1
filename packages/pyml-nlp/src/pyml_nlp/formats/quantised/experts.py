"""The experts of a layer that MLX stacks: each matrix of them is one matrix of the model.

mlx-lm renames ``experts.3.gate_proj`` to ``switch_mlp.gate_proj``, whose tensors have the experts as their first axis;
those of Mixtral were called w1, w2 and w3. Source: ``sanitize`` of mlx-lm's ``models/qwen3_moe.py`` and ``mixtral.py``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy.typing as npt

from pyml_core.errors import quoted
from pyml_core.ops.experts import MAX_EXPERTS
from pyml_core.tensor import Tensor

from .matrix import Found, QuantisedMatrix, Read

_STACK = "switch_mlp"
_MIXTRAL = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}


def one_of_stack(stored: Found) -> tuple[Found, list[str]]:
    """Return the tensors of one matrix of a stack, and the names of all its matrices; of any other matrix itself.

    Raises:
        ModelFileError: the tensors are not stacks of the same number of matrices.
    """
    parent, _, name = stored.name.rpartition(".")
    if not parent.endswith(f".{_STACK}"):
        return stored, [stored.name]
    first = next(iter(stored.tensors.values()))
    for info in stored.tensors.values():
        if len(info.shape) != 3 or info.shape[0] != first.shape[0] or not 1 <= info.shape[0] <= MAX_EXPERTS:
            raise stored.fail(
                f"tensor {quoted(info.name)}: expected a stack of 1 to {MAX_EXPERTS} matrices, as many as in "
                f"{quoted(first.name)}, got shape {info.shape}"
            )
    count = first.shape[0]
    one = {
        end: replace(info, shape=info.shape[1:], nbytes=info.nbytes // count) for end, info in stored.tensors.items()
    }
    layer = parent.removesuffix(_STACK)
    name = _MIXTRAL.get(name, name) if layer.endswith("block_sparse_moe.") else name
    return Found(stored.name, one, stored.fail), [f"{layer}experts.{index}.{name}" for index in range(count)]


class StackedMatrix(QuantisedMatrix):
    """One matrix of a stack."""

    def __init__(self, matrix: QuantisedMatrix, index: int) -> None:
        self.shape, self.dtype = matrix.shape, matrix.dtype
        self._matrix, self._index = matrix, index

    def read(self, read: Read, start: int, stop: int) -> Tensor:
        """Return rows ``start`` to ``stop`` of this matrix."""

        def read_one(name: str, first: int, last: int | None) -> npt.NDArray[Any]:
            matrix: npt.NDArray[Any] = read(name, self._index, self._index + 1)[0]
            return matrix[first:last]

        return self._matrix.read(read_one, start, stop)
