"""The Dense modules of sentence-transformers: a matrix after the pooling, with an activation.

Letters: I, O = numbers of a vector before and after the module.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pyml_core.errors import quoted

from ..errors import ModelFileError
from ..formats.config import read_json
from ..formats.safetensors import SafetensorsFile

F32Array = npt.NDArray[np.float32]

_LIMIT = 1 << 16  # bytes of a config.json
_MAX_WIDTH = 1 << 16
_ACTIVATIONS = {"Identity": False, "Tanh": True}


@dataclass(frozen=True, eq=False)
class Dense:
    """``activation(weight @ vector + bias)``.

    Attributes:
        weight: (O, I).
        bias: (O); zeros if there is none.
        tanh: whether the activation is tanh; else there is none.
    """

    weight: F32Array
    bias: F32Array
    tanh: bool

    def __call__(self, vector: F32Array) -> F32Array:
        """The module's vector (O) of a vector (I)."""
        # einsum without BLAS: the sum has one order, whatever the number of threads.
        found: F32Array = np.einsum("oi,i->o", self.weight, vector, optimize=False) + self.bias
        return np.tanh(found) if self.tanh else found


def read_dense(folder: Path) -> Dense:
    """Read the module of a folder.

    Raises:
        ModelFileError: a file is missing or malformed, or has another activation.
    """
    where = folder / "config.json"
    config = read_json(where, _LIMIT)
    inner, outer = (config.get(name) for name in ("in_features", "out_features"))
    if not all(type(one) is int and 0 < one <= _MAX_WIDTH for one in (inner, outer)):
        raise ModelFileError(f"{where}: expected in_features and out_features from 1, got {quoted([inner, outer])}")
    given = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    name = given.rpartition(".")[2] if isinstance(given, str) else ""
    if name not in _ACTIVATIONS:
        raise ModelFileError(f"{where}: activation_function: expected Tanh or Identity, got {quoted(given)}")
    path = folder / "model.safetensors"
    with SafetensorsFile(path) as file:
        weight = _array(file, path, "linear.weight", (outer, inner))
        bias = np.zeros(weight.shape[0], np.float32)
        if config.get("bias", True):
            bias = _array(file, path, "linear.bias", (outer,))
    return Dense(weight, bias, _ACTIVATIONS[name])


def _array(file: SafetensorsFile, path: Path, name: str, shape: tuple[object, ...]) -> F32Array:
    stored = file.info(name).shape
    if stored != shape:
        raise ModelFileError(f"{path}: {name}: expected shape {shape}, got {stored}")
    found = file.read(name).to_f32()
    if not np.isfinite(found).all():
        raise ModelFileError(f"{path}: {name}: expected finite numbers")
    return found
