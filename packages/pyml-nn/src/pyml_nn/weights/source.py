"""Sources of weights: named tensors in files or in memory."""

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
        """Names of all tensors."""
        ...

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Read a tensor, or rows ``start`` to ``stop`` of its first axis; PymlError, naming it, if it is missing."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""
        ...

    def dtype(self, name: str) -> str:
        """Block type of a tensor, without reading it."""
        ...


class ArrayWeights:
    """Weights in memory.

    Args:
        arrays: name -> tensor: NumPy arrays of float32, float16 or bfloat16 (ml_dtypes), or :class:`pyml_core.Tensor`.
    """

    def __init__(self, arrays: Mapping[str, npt.NDArray[Any] | Tensor]) -> None:
        self._tensors = {
            name: array if isinstance(array, Tensor) else Tensor.from_array(array) for name, array in arrays.items()
        }

    def names(self) -> list[str]:
        """Names of all tensors."""
        return list(self._tensors)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Read a tensor, or some of its rows."""
        try:
            tensor = self._tensors[name]
        except KeyError:
            raise WeightsError(f"{name}: there is no such tensor") from None
        return tensor if start == 0 and stop is None else tensor.rows(start, tensor.shape[0] if stop is None else stop)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self.read(name).shape

    def dtype(self, name: str) -> str:
        """Block type of a tensor."""
        return self.read(name).dtype


@runtime_checkable
class FileSource(Protocol):
    """A source of weights in files, many of which can be read in one call."""

    def is_stored(self, name: str) -> bool:
        """Whether the file has the tensor's own bytes, at its :meth:`place`; else only ``read`` has them."""
        ...

    def place(self, name: str) -> tuple[int, int]:
        """File descriptor of a tensor, and the offset of its bytes in that file."""
        ...

    def read_parts(self, parts: Sequence[Part]) -> list[int]:
        """Read and pack rows of matrices; return their hashes, see :func:`pyml_core.from_file.read_parts`.

        Raises:
            PymlError: names the tensor that cannot be read.
        """
        ...

    def read_ranges(self, ranges: Sequence[tuple[int, int, int]]) -> U8Array:
        """Read ranges (descriptor, offset, size) into one array; PymlError as in :meth:`read_parts`."""
        ...
