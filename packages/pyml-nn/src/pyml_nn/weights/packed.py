"""Weights that have been packed before: kept while a model is loaded, written to a file, and used from there."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from pyml_core import cpu
from pyml_core.block_types import BLOCK_TYPES
from pyml_core.tensor import PackedMatrix

from ..errors import WeightsError
from .names import shown
from .reader import SourceWeights
from .spec import Spec, is_matrix
from .weights import F32Array, Weights

T = TypeVar("T")


@dataclass
class PackedContents:
    """All weights of a model in the form in which it uses them.

    Attributes:
        matrices: by internal name. Their rows are in the model's order.
        arrays: norms, biases and position tables by internal name, as the original has them.
        dtype, gguf, n_params: see :class:`Weights`.
        fingerprint: that of the model that was loaded from the original.
        config_digest: hash of the configuration that the fingerprint includes.
        level: CPU level of the statistics of the head's rows.
    """

    dtype: str
    gguf: bool
    matrices: dict[str, PackedMatrix] = field(default_factory=dict)
    arrays: dict[str, F32Array] = field(default_factory=dict)
    n_params: int = 0
    fingerprint: str = ""
    config_digest: str = ""
    level: str = ""


class KeptWeights(SourceWeights):
    """Weights that keep all that a model reads: for packing. The arguments are those of :class:`SourceWeights`."""

    def matrix(self, name: str, rows: npt.NDArray[np.intp] | None = None) -> PackedMatrix:
        """Read and pack a matrix, and keep it."""
        matrix = super().matrix(name, rows)
        self.contents.matrices[name] = matrix
        return matrix

    def array(self, name: str) -> F32Array:
        """Read an array, and keep it."""
        array = super().array(name)
        self.contents.arrays[name] = array
        return array

    def fingerprint(self, config_text: str) -> str:
        """Return the fingerprint, and keep it with the number of parameters."""
        contents = self.contents
        contents.fingerprint, contents.n_params = super().fingerprint(config_text), self.n_params
        contents.config_digest, contents.level = config_digest(config_text), cpu.level()
        return contents.fingerprint

    @property
    def contents(self) -> PackedContents:
        """All that has been read: complete once the model is made."""
        if self._contents is None:
            self._contents = PackedContents(self.dtype, self.gguf)
        return self._contents

    _contents: PackedContents | None = None


class PackedWeights(Weights):
    """The packed weights of a file.

    Args:
        contents: the weights. Sizes and types of the matrices have been checked by the reader of the file.
        specs: internal name -> names in files and shape.

    Raises:
        WeightsError: a weight is missing, unknown, of another shape, or of a type that the model cannot use there.
    """

    mapped = True

    def __init__(self, contents: PackedContents, specs: Mapping[str, Spec]) -> None:
        self.dtype, self.gguf = contents.dtype, contents.gguf
        self.n_params = contents.n_params
        self._contents = contents
        self._check(specs)

    def has(self, name: str) -> bool:
        """Whether the file has this (optional) weight."""
        return name in self._contents.matrices or name in self._contents.arrays

    def matrix(self, name: str, rows: npt.NDArray[np.intp] | None = None) -> PackedMatrix:
        """Return a matrix: pages of the file. Its rows already are in the order ``rows``."""
        matrix = _known(self._contents.matrices, name)
        if matrix.row_stats is not None and self._contents.level != cpu.level():  # other levels round differently
            matrix = replace(matrix, row_stats=None)
        return matrix

    def array(self, name: str) -> F32Array:
        """Return a copy of an array."""
        return _known(self._contents.arrays, name).copy()

    def flush(self) -> None:
        """Do nothing: all matrices are there."""

    def warn(self) -> None:
        """Do nothing: the file has no other weights."""

    def packed_sizes(self) -> dict[str, tuple[str, int]]:
        """Name of a weight -> block type, and bytes."""
        sizes = {name: (matrix.dtype, matrix.nbytes) for name, matrix in self._contents.matrices.items()}
        return sizes | {name: ("f32", array.nbytes) for name, array in self._contents.arrays.items()}

    @property
    def quantized(self) -> bool:
        """Whether any matrix is quantised."""
        return any(BLOCK_TYPES[matrix.dtype].quantized for matrix in self._contents.matrices.values())

    def fingerprint(self, config_text: str) -> str:
        """Return the fingerprint of the original.

        Raises:
            WeightsError: this version of pyml reads the configuration differently.
        """
        if config_digest(config_text) != self._contents.config_digest:
            raise WeightsError(
                "packed by a version of pyml that reads this configuration differently: pack the original again"
            )
        return self._contents.fingerprint

    def _expected_name(self, name: str) -> str:
        return name

    def _check(self, specs: Mapping[str, Spec]) -> None:
        matrices, arrays = self._contents.matrices, self._contents.arrays
        if unknown := next((name for name in (*matrices, *arrays) if name not in specs), None):
            raise WeightsError(f"{shown(unknown)}: unknown tensor, which the model would not use")
        groups = {spec.optional for name, spec in specs.items() if self.has(name)}
        head = "head.weight" if self.has("head.weight") else "embedding.weight"
        types: dict[str, str] = {}
        for name, spec in specs.items():
            found = matrices.get(name) if is_matrix(name, spec.shape) else arrays.get(name)
            if found is None:
                if self.has(name):
                    raise WeightsError(f"{name}: expected {'a matrix' if name in arrays else 'an array'}")
                if not spec.optional or spec.optional in groups:
                    raise WeightsError(f"{name}: missing, expected a tensor of shape {spec.shape}")
                continue
            if found.shape != spec.shape:
                raise WeightsError(f"{name}: expected shape {spec.shape}, found {found.shape}")
            if isinstance(found, PackedMatrix):
                if spec.exact and found.dtype != "f32":
                    raise WeightsError(f"{name}: expected f32, found {found.dtype}")
                if found.split and name != head:
                    raise WeightsError(f"{name}: expected only the head to be packed for a screen")
                if spec.gguf_index is not None and types.setdefault(spec.gguf, found.dtype) != found.dtype:
                    raise WeightsError(f"{name}: expected {types[spec.gguf]} as in other experts, found {found.dtype}")


def config_digest(config_text: str) -> str:
    """Hash of the text of a configuration: 32 hexadecimal digits."""
    return hashlib.blake2b(config_text.encode(), digest_size=16).hexdigest()


def _known(found: Mapping[str, T], name: str) -> T:
    try:
        return found[name]
    except KeyError:
        raise WeightsError(f"{name}: missing") from None
