"""safetensors files and folders in Hugging Face layout, as sources of weights.

A file is: ``header length u64 | header, a JSON object | data``. The header maps each tensor's name to ``{"dtype":
"F32", "shape": [2, 3], "data_offsets": [0, 24]}``, offsets counted from the start of the data, and ``"__metadata__"``
to an object of strings.

The header is checked here, more strictly than by the reference reader (which accepts repeated and unknown keys), and
tensors are then read one at a time with ``preadv`` from the checked offsets. The safetensors library would map the
file, and so risk SIGBUS, to save a single call.

Source: the section "Format" of the safetensors README, and ``Metadata::validate`` of its ``tensor.rs``.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pyml_core.errors import quoted
from pyml_core.from_file import NOT_FINITE
from pyml_core.tensor import Tensor

from ..errors import ModelNotFoundError
from .config import parse_json_object, read_config, read_optional
from .folders import ADAPTER, CONFIG, INDEX, MAX_INDEXED, WeightFiles, listed, not_a_model, weight_files
from .quantised import Quantised, quantised_weights
from .tensor_files import MAX_DIMS, MAX_ELEMENTS, TensorFile, TensorFiles, TensorInfo

_log = logging.getLogger("pyml.load")

MAX_TENSORS = 1 << 16  # of a file: some ten times as many as in the largest known files
MAX_HEADER = MAX_TENSORS << 8  # bytes; the reference reader's only limit is 100 MB
_VALUES = 16  # values of a tensor's entry in a header, with a margin for the metadata
MAX_RANK = 8  # dimensions of any tensor; tensors that are read as weights have at most MAX_DIMS

_WEIGHTS = {"F32": "f32", "F16": "f16", "BF16": "bf16"}
_BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}


_ARRAYS = {
    "u8": np.uint8, "f8_e4m3": np.uint8, "f8_e8m0": np.uint8, "i8": np.int8, "i32": np.int32, "u32": np.uint32,
    "f16": np.float16, "bf16": np.uint16, "f32": np.float32,
}  # fmt: skip
"""Types of tensors that a quantised matrix consists of."""


class SafetensorsFile(TensorFile):
    """One safetensors file with a checked header.

    Attributes:
        tensors: descriptions of the tensors, in the order of the header.
        metadata: the strings of ``__metadata__``.

    Raises:
        ModelNotFoundError: the file does not exist.
        ModelFileError: it is malformed.
    """

    def _parse(self) -> None:
        if self.size < 8:
            raise self.error(f"expected at least the 8 bytes of a header length, the file has {self.size}")
        length = int.from_bytes(self.read_bytes(0, 8), "little")
        if length > MAX_HEADER:
            raise self.error(f"expected a header of at most {MAX_HEADER} bytes, got a length of {length}")
        if length > self.size - 8:
            raise self.error(f"truncated: expected a header of {length} bytes, the file has {self.size} bytes")
        data = self.read_bytes(8, length)
        if data[:1] != b"{":
            raise self.error(f"expected a header that begins with '{{', got {data[:1]!r}")
        header = parse_json_object(data, f"{self.path}: header", MAX_TENSORS * _VALUES)
        self.metadata: dict[str, str] = self._checked_metadata(header.pop("__metadata__", {}))
        if len(header) > MAX_TENSORS:
            raise self.error(f"expected at most {MAX_TENSORS} tensors, got {len(header)}")
        self.tensors = {name: self._tensor(name, entry, 8 + length) for name, entry in header.items()}
        self._check_coverage(8 + length)

    def _checked_metadata(self, found: Any) -> dict[str, str]:
        if not isinstance(found, dict):
            raise self.error(f"header: expected an object in '__metadata__', got {type(found).__name__}")
        for key, value in found.items():
            if not isinstance(value, str):
                raise self.error(
                    f"header: expected a string in '__metadata__' {quoted(key)}, got {type(value).__name__}"
                )
        return found

    def _tensor(self, name: str, entry: Any, start: int) -> TensorInfo:
        label = f"tensor {quoted(name)}"
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            got = sorted(entry) if isinstance(entry, dict) else type(entry).__name__
            raise self.error(f"{label}: expected an object with dtype, shape and data_offsets, got {quoted(str(got))}")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in _BITS:
            raise self.error(f"{label}: expected a dtype of {', '.join(_BITS)}, got {quoted(repr(dtype))}")
        # `type is int`: True is an int in Python, but not a dimension.
        if not isinstance(shape, list) or not all(type(dim) is int and dim >= 0 for dim in shape):
            raise self.error(f"{label}: expected a shape of whole numbers of at least 0, got {quoted(repr(shape))}")
        if len(shape) > MAX_RANK:
            raise self.error(f"{label}: expected at most {MAX_RANK} dimensions, got {len(shape)}")
        if math.prod(max(dim, 1) for dim in shape) > MAX_ELEMENTS:
            raise self.error(f"{label}: expected at most {MAX_ELEMENTS} elements, got shape {quoted(repr(shape))}")
        if (
            not isinstance(offsets, list)
            or len(offsets) != 2
            or not all(type(offset) is int and offset >= 0 for offset in offsets)
            or offsets[0] > offsets[1]
        ):
            raise self.error(f"{label}: expected data_offsets [begin, end], got {quoted(repr(offsets))}")
        begin, end = offsets
        if start + end > self.size:
            raise self.error(f"{label}: truncated: expected data up to byte {start + end}, the file has {self.size}")
        bits = math.prod(shape) * _BITS[dtype]
        if bits % 8 or bits // 8 != end - begin:
            raise self.error(
                f"{label}: expected {bits / 8:g} bytes for {dtype} of shape {quoted(repr(shape))}, "
                f"got data_offsets {begin} to {end}, {end - begin} bytes"
            )
        return TensorInfo(name, _WEIGHTS.get(dtype, dtype.lower()), tuple(shape), start + begin, end - begin)

    def _check_coverage(self, start: int) -> None:
        """Check that the tensors follow each other without gaps or overlaps, and fill the file."""
        position = start
        for info in sorted(self.tensors.values(), key=lambda info: (info.offset, info.nbytes)):
            if info.offset != position:
                fault = "overlaps another tensor" if info.offset < position else "leaves a gap before it"
                raise self.error(
                    f"tensor {quoted(info.name)}: {fault}: expected data_offsets from {position - start}, "
                    f"got {info.offset - start}"
                )
            position += info.nbytes
        if position != self.size:
            raise self.error(
                f"expected the tensors to fill the file, {self.size - position} bytes at its end belong to no tensor"
            )

    def info(self, name: str) -> TensorInfo:
        """Return the description of a tensor of weights.

        Raises:
            ModelFileError: the tensor does not exist, or is not f32, f16 or bf16.
        """
        info = super().info(name)
        if info.dtype not in _WEIGHTS.values():
            raise self.error(
                f"tensor {quoted(name)}: expected weights of {', '.join(_WEIGHTS)}, got {info.dtype.upper()}"
            )
        if len(info.shape) > MAX_DIMS:
            raise self.error(f"tensor {quoted(name)}: expected at most {MAX_DIMS} dimensions, got shape {info.shape}")
        return info

    def array(self, name: str, start: int = 0, stop: int | None = None) -> npt.NDArray[Any]:
        """Read rows of a tensor as an array of its type; bfloat16 as float32, float8 as bytes.

        Raises:
            ModelFileError: the tensor does not exist or has another type, or the file was truncated.
            OutOfMemoryError: there is not enough memory.
        """
        info = super().info(name).rows(start, stop)
        if info.dtype not in _ARRAYS:
            raise self.error(f"tensor {quoted(name)}: expected {', '.join(_ARRAYS)}, got {info.dtype}")
        data = self.read_array(info.offset, info.nbytes, f"tensor {quoted(name)}")
        found: npt.NDArray[Any] = data.view(_ARRAYS[info.dtype]).reshape(info.shape)
        return (found.astype(np.uint32) << 16).view(np.float32) if info.dtype == "bf16" else found


class SafetensorsFolder(TensorFiles[SafetensorsFile]):
    """A folder in Hugging Face layout: ``config.json`` and ``model.safetensors``, or the shards in its index.

    Other weight files are ignored with a warning. An index that contradicts the shards is ignored with a warning too,
    as long as no tensor is in two shards.

    Attributes:
        path: the folder.
        config: ``config.json``.
        generation_config: ``generation_config.json``, empty if it does not exist.
        tensors: descriptions of all tensors. A quantised matrix is one tensor, under the name of its weights.
        quantisation: the scheme of the quantised matrices, for people; empty if there are none.

    ``config`` lacks the section about a quantisation that has been undone here.

    Raises:
        ModelNotFoundError: the folder does not exist, or has no weights.
        ModelFileError: a file is malformed, refused, or contradicts the others.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        if not self.path.is_dir():
            raise ModelNotFoundError(f"{self.path}: there is no such folder")
        files = weight_files(self.path)
        if files is None or not (self.path / CONFIG).exists():
            raise not_a_model(self.path)
        self.config: dict[str, Any] = read_config(self.path)
        self.generation_config: dict[str, Any] = read_optional(self.path, "generation_config.json")
        try:
            for name in files.names:
                self._open(name, files.weight_map)
            self._join(quantised_weights(self.config, self.tensors, self.error))
        except BaseException:
            self.close()
            raise
        self._warn(files)

    def _open(self, name: str, weight_map: Mapping[str, str] | None) -> None:
        if weight_map is not None and not (self.path / name).exists():
            raise ModelNotFoundError(f"{self.path / INDEX}: names the shard {quoted(name)}, which is missing")
        file = SafetensorsFile(self.path / name)
        self.files.append(file)
        self._register(file, "shard")
        if len(self.tensors) > MAX_INDEXED:
            raise file.error(
                f"expected at most {MAX_INDEXED} tensors in all shards, got {len(self.tensors)} up to here"
            )

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Read a tensor or rows of it, or of a quantised matrix; see :meth:`TensorFile.read`."""
        matrix = self._matrices.get(name)
        if matrix is None:
            return super().read(name, start, stop)
        tensor = matrix.read(self._array, start, matrix.shape[0] if stop is None else stop)
        if not tensor.is_finite():
            raise self.error(f"tensor {quoted(name)}: {NOT_FINITE}")
        return tensor

    def _array(self, name: str, start: int, stop: int | None) -> npt.NDArray[Any]:
        return self._parts[name].array(name, start, stop)

    def _join(self, quantised: Quantised | None) -> None:
        """Put a tensor in the place of each quantised matrix."""
        self.quantisation = quantised.description if quantised is not None else ""
        self._matrices = dict(quantised.matrices) if quantised is not None else {}
        self._parts = dict(self._owners)
        if quantised is None:
            return
        self.config, self.tensors = quantised.config, dict(quantised.tensors)
        self._owners = {name: self._parts.get(name, self.files[0]) for name in self.tensors}

    def _warn(self, files: WeightFiles) -> None:
        """Warn of unused weight files and adapters, and of an index that contradicts the shards."""
        if files.left_out:
            _log.warning("%s: the weights are %s; left out: %s", self.path, listed(files.names), listed(files.left_out))
        if (self.path / ADAPTER).exists():
            _log.warning("%s: the adapter next to the model is not applied", self.path / ADAPTER)
        if files.weight_map is None:
            return
        index = self.path / INDEX
        for tensor, file in self._parts.items():
            said, name = files.weight_map.get(tensor), file.path.name
            if said != name:
                where = "is not in it, but" if said is None else f"should be in {said}, and"
                _log.warning("%s: out of date: tensor %s %s is in %s", index, quoted(tensor), where, name)
                return
        if absent := next((tensor for tensor in files.weight_map if tensor not in self._parts), None):
            _log.warning("%s: out of date: tensor %s is in no shard", index, quoted(absent))
