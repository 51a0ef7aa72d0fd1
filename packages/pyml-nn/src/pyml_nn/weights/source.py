"""Where weights come from: named tensors in files or in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from pyml_core.from_file import Part
from pyml_core.tensor import Tensor

from ..errors import WeightsError

U8Array = npt.NDArray[np.uint8]


@runtime_checkable
class WeightSource(Protocol):
    """Named tensors, read one at a time: a GGUF file, a folder of safetensors, arrays in memory."""

    def names(self) -> list[str]:
        """Every tensor's name."""
        ...

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """One tensor, or rows ``start`` to ``stop`` of its first axis; PymlError naming it if there is none."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """One tensor's shape, without reading it."""
        ...

    def dtype(self, name: str) -> str:
        """One tensor's block type, without reading it."""
        ...


class ArrayWeights:
    """Weights held in memory.

    Args:
        arrays: tensors by name; NumPy arrays of float32, float16 or bfloat16 (ml_dtypes), or :class:`pyml_core.Tensor`.
    """

    def __init__(self, arrays: Mapping[str, npt.NDArray[Any] | Tensor]) -> None:
        self._tensors = {
            name: array if isinstance(array, Tensor) else Tensor.from_array(array) for name, array in arrays.items()
        }

    def names(self) -> list[str]:
        """Every tensor's name."""
        return list(self._tensors)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """One tensor, or rows of it."""
        try:
            tensor = self._tensors[name]
        except KeyError:
            raise WeightsError(f"{name}: there is no such tensor") from None
        return tensor if start == 0 and stop is None else tensor.rows(start, tensor.shape[0] if stop is None else stop)

    def shape(self, name: str) -> tuple[int, ...]:
        """One tensor's shape."""
        return self.read(name).shape

    def dtype(self, name: str) -> str:
        """One tensor's block type."""
        return self.read(name).dtype


@runtime_checkable
class FileSource(Protocol):
    """A source of weights that lie in files, of which much can be read at once."""

    def place(self, name: str) -> tuple[int, int]:
        """The descriptor of a tensor's file, and where its bytes begin there."""
        ...

    def read_parts(self, parts: Sequence[Part]) -> list[int]:
        """Read and pack rows of matrices; their hashes, see :func:`pyml_core.from_file.read_parts`.

        PymlError naming the tensor that cannot be read.
        """
        ...

    def read_ranges(self, ranges: Sequence[tuple[int, int, int]]) -> U8Array:
        """Bytes, (descriptor, offset, size) each, one behind the other; PymlError as of :meth:`read_parts`."""
        ...
