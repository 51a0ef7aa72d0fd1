"""What a model reads its weights from: packed matrices and float32 arrays by internal name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pyml_core.tensor import PackedMatrix

from ..errors import WeightsError
from ..layers.linear import Linear

if TYPE_CHECKING:
    from ..adapters import AdapterTerms

F32Array = npt.NDArray[np.float32]


class Weights(ABC):
    """The weights of one model, whose names and shapes have been checked.

    Attributes:
        dtype: the requested type of the matrices, see :func:`pyml_nn.weights.spec.matrix_type`.
        gguf: whether they follow GGUF's conventions (else Hugging Face's).
        mapped: whether the matrices are pages of a file, which take no memory of their own.
        n_params: number of parameters read so far; a shared matrix counts once.
        adapters: the terms that adapters add to linear layers, or None.
    """

    dtype: str
    gguf: bool
    mapped = False
    n_params: int
    adapters: AdapterTerms | None = None

    @abstractmethod
    def has(self, name: str) -> bool:
        """Whether this (optional) weight exists."""

    @abstractmethod
    def matrix(self, name: str, rows: npt.NDArray[np.intp] | None = None) -> PackedMatrix:
        """Return a packed matrix, which may be undefined until :meth:`flush`.

        Args:
            name: internal name.
            rows: order of its rows, if it differs from the file's.
        """

    @abstractmethod
    def array(self, name: str) -> F32Array:
        """Return a norm, bias or position table as float32, which such weights always are."""

    @abstractmethod
    def flush(self) -> None:
        """Read and pack all matrices that :meth:`matrix` has returned."""

    @abstractmethod
    def warn(self) -> None:
        """Log a warning about weights that the model does not have."""

    @abstractmethod
    def packed_sizes(self) -> dict[str, tuple[str, int]]:
        """Name of a tensor in the file -> block type that it is packed in, and bytes once packed."""

    @abstractmethod
    def fingerprint(self, config_text: str) -> str:
        """Hash of configuration, types and all bytes that were read: 32 hexadecimal digits."""

    @abstractmethod
    def _expected_name(self, name: str) -> str:
        """Name of a weight for messages: the one that it has in files."""

    def packed_bytes(self) -> int:
        """Bytes of all weights once packed; nothing is read."""
        return sum(nbytes for _, nbytes in self.packed_sizes().values())

    @property
    @abstractmethod
    def quantized(self) -> bool:
        """Whether any weight is packed in a quantised type."""

    def linear(self, *names: str, rows: Mapping[str, npt.NDArray[np.intp]] | None = None) -> Linear:
        """Read a linear layer: the matrices ``<name>.weight``, with the biases ``<name>.bias`` that exist.

        Args:
            names: internal names without ``.weight``.
            rows: name -> order of the rows, see :meth:`matrix`; it applies to the bias as well.
        """
        rows = rows or {}
        matrices = tuple(self.matrix(f"{name}.weight", rows.get(name)) for name in names)
        terms = () if self.adapters is None else self.adapters.of(names, matrices, rows)
        if not any(self.has(f"{name}.bias") for name in names):
            return Linear(matrices, None, terms)
        biases = []
        for name, matrix in zip(names, matrices, strict=True):
            bias = self.array(f"{name}.bias") if self.has(f"{name}.bias") else np.zeros(matrix.shape[0], np.float32)
            biases.append(bias[rows[name]] if name in rows else bias)
        return Linear(matrices, np.concatenate(biases), terms)

    def head(self, name: str, embedding: PackedMatrix, tied: bool) -> PackedMatrix:
        """Return the head's matrix, or the embedding if there is no head and ``tied`` is true.

        It is the last matrix of a model, so that all queued matrices are read with it: see :meth:`flush`.

        Raises:
            WeightsError: there is no head, and it is not tied.
        """
        if not self.has(name) and not tied:
            raise WeightsError(f"{self._expected_name(name)}: missing, and the configuration does not tie the head")
        head = self.matrix(name) if self.has(name) else embedding
        self.flush()
        return head
