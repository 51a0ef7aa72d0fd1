"""safetensors files and folders in Hugging Face layout, as sources of weights.

A file is: ``header length u64 | header, a JSON object | data``. The header maps each tensor's name to ``{"dtype":
"F32", "shape": [2, 3], "data_offsets": [0, 24]}``, offsets counted from the start of the data, and ``"__metadata__"``
to an object of strings.

The header is checked here, more strictly than by the reference reader (which takes keys that are there twice, and keys
that it does not know), and tensors are then read with ``preadv`` from the checked offsets, one at a time. The
safetensors library would map the file, and with it take the risk of SIGBUS, for what is a single call here.

Source: the section "Format" of the safetensors README, and ``Metadata::validate`` of its ``tensor.rs``.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pyml_core.errors import quoted
from pyml_core.tensor import Tensor

from ..errors import ModelFileError, ModelNotFoundError
from .config import parse_json_object, read_config, read_optional
from .folders import ADAPTER, CONFIG, INDEX, MAX_INDEXED, WeightFiles, listed, not_a_model, weight_files
from .reading import MAX_DIMS, MAX_ELEMENTS, ManyReads, ModelFile, TensorInfo

_log = logging.getLogger("pyml.load")

MAX_TENSORS = 1 << 16  # of a file: some ten times as many as the largest known files hold
MAX_HEADER = MAX_TENSORS << 8  # bytes; the reference reader's only limit is 100 MB
_VALUES = 16  # of a tensor's entry in a header, and what is left for the metadata
MAX_RANK = 8  # dimensions of any tensor; of one that is read as a weight, MAX_DIMS

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


class SafetensorsFile(ModelFile):
    """One safetensors file, its header checked.

    Attributes:
        tensors: what the header says about each tensor, in its order.
        metadata: the strings of ``__metadata__``.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelFileError: it is malformed.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        try:
            self._parse()
        except BaseException:
            self.close()
            raise

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
        what = f"tensor {quoted(name)}"
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            got = sorted(entry) if isinstance(entry, dict) else type(entry).__name__
            raise self.error(f"{what}: expected an object with dtype, shape and data_offsets, got {quoted(str(got))}")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in _BITS:
            raise self.error(f"{what}: expected a dtype of {', '.join(_BITS)}, got {quoted(repr(dtype))}")
        # `type is int`: True is an int in Python, and is no dimension.
        if not isinstance(shape, list) or not all(type(dim) is int and dim >= 0 for dim in shape):
            raise self.error(f"{what}: expected a shape of whole numbers of at least 0, got {quoted(repr(shape))}")
        if len(shape) > MAX_RANK:
            raise self.error(f"{what}: expected at most {MAX_RANK} dimensions, got {len(shape)}")
        if math.prod(max(dim, 1) for dim in shape) > MAX_ELEMENTS:
            raise self.error(f"{what}: expected at most {MAX_ELEMENTS} elements, got shape {quoted(repr(shape))}")
        if (
            not isinstance(offsets, list)
            or len(offsets) != 2
            or not all(type(offset) is int and offset >= 0 for offset in offsets)
            or offsets[0] > offsets[1]
        ):
            raise self.error(f"{what}: expected data_offsets [begin, end], got {quoted(repr(offsets))}")
        begin, end = offsets
        if start + end > self.size:
            raise self.error(f"{what}: truncated: expected data up to byte {start + end}, the file has {self.size}")
        bits = math.prod(shape) * _BITS[dtype]
        if bits % 8 or bits // 8 != end - begin:
            raise self.error(
                f"{what}: expected {bits / 8:g} bytes for {dtype} of shape {quoted(repr(shape))}, "
                f"got data_offsets {begin} to {end}, {end - begin} bytes"
            )
        return TensorInfo(name, _WEIGHTS.get(dtype, dtype.lower()), tuple(shape), start + begin, end - begin)

    def _check_coverage(self, start: int) -> None:
        """Tensors must follow each other without a gap or overlap, and fill the file."""
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

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """A tensor, or rows ``start`` to ``stop`` of its first axis, in memory of its own.

        Raises:
            ModelFileError: there is no such tensor, it is no f32, f16 or bf16, or the file has become shorter.
            OutOfMemoryError: there is no memory for it.
        """
        info = self.info(name).rows(start, stop)
        return Tensor(self.read_array(info.offset, info.nbytes, f"tensor {quoted(name)}"), info.dtype, info.shape)

    def info(self, name: str) -> TensorInfo:
        """What the header says about a tensor of weights.

        Raises:
            ModelFileError: there is no such tensor, or it is no f32, f16 or bf16.
        """
        info = self.tensors.get(name)
        if info is None:
            raise self.error(f"there is no tensor {quoted(name)}")
        if info.dtype not in _WEIGHTS.values():
            raise self.error(
                f"tensor {quoted(name)}: expected weights of {', '.join(_WEIGHTS)}, got {info.dtype.upper()}"
            )
        if len(info.shape) > MAX_DIMS:
            raise self.error(f"tensor {quoted(name)}: expected at most {MAX_DIMS} dimensions, got shape {info.shape}")
        return info


class SafetensorsFolder(ManyReads):
    """A folder in Hugging Face layout: ``config.json`` and ``model.safetensors``, or the shards that its index names.

    Other weights beside these are left out with a warning, and so is an index that says something else than the shards
    do, as long as every tensor is in one place.

    Attributes:
        path: the folder.
        config: ``config.json``.
        generation_config: ``generation_config.json``, empty if there is none.
        tensors: what the files say about each tensor.

    Raises:
        ModelNotFoundError: there is no such folder, or no weights in it.
        ModelFileError: something in it is malformed, contradicts the rest, or is refused.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            raise ModelNotFoundError(f"{self.path}: there is no such folder")
        files = weight_files(self.path)
        if files is None or not (self.path / CONFIG).exists():
            raise not_a_model(self.path)
        self.config: dict[str, Any] = read_config(self.path)
        self.generation_config: dict[str, Any] = read_optional(self.path, "generation_config.json")
        self._home: dict[str, SafetensorsFile] = {}
        self._files: list[SafetensorsFile] = []
        try:
            for name in files.names:
                self._open(name, files.weight_map)
        except BaseException:
            self.close()
            raise
        self.tensors: dict[str, TensorInfo] = {name: file.tensors[name] for name, file in self._home.items()}
        self._warn(files)

    def _open(self, name: str, weight_map: Mapping[str, str] | None) -> None:
        if weight_map is not None and not (self.path / name).exists():
            raise ModelNotFoundError(f"{self.path / INDEX}: names the shard {quoted(name)}, which is missing")
        file = SafetensorsFile(self.path / name)
        self._files.append(file)
        for tensor in file.tensors:
            if tensor in self._home:
                raise file.error(
                    f"tensor {quoted(tensor)}: expected in one shard, it is in {self._home[tensor].path.name} too"
                )
            self._home[tensor] = file
        if len(self._home) > MAX_INDEXED:
            raise file.error(f"expected at most {MAX_INDEXED} tensors in all shards, got {len(self._home)} up to here")

    def _warn(self, files: WeightFiles) -> None:
        """Warn of what lies beside the weights and is not used, and of an index that is not theirs."""
        if files.left_out:
            _log.warning("%s: the weights are %s; left out: %s", self.path, listed(files.names), listed(files.left_out))
        if (self.path / ADAPTER).exists():
            _log.warning("%s: the adapter beside the model is not applied", self.path / ADAPTER)
        if files.weight_map is None:
            return
        index = self.path / INDEX
        for tensor, file in self._home.items():
            said, name = files.weight_map.get(tensor), file.path.name
            if said != name:
                where = "is not in it, but" if said is None else f"should be in {said}, and"
                _log.warning("%s: out of date: tensor %s %s is in %s", index, quoted(tensor), where, name)
                return
        if absent := next((tensor for tensor in files.weight_map if tensor not in self._home), None):
            _log.warning("%s: out of date: tensor %s is in no shard", index, quoted(absent))

    def names(self) -> list[str]:
        """Every tensor's name."""
        return list(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape.

        Raises:
            ModelFileError: there is no such tensor.
        """
        return self._home_of(name).tensors[name].shape

    def dtype(self, name: str) -> str:
        """A tensor's type: f32, f16, bf16, or one that cannot be read as weights (``"i64"``).

        Raises:
            ModelFileError: there is no such tensor.
        """
        return self._home_of(name).tensors[name].dtype

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """A tensor or rows of it; see :meth:`SafetensorsFile.read`."""
        return self._home_of(name).read(name, start, stop)

    def place(self, name: str) -> tuple[int, int]:
        """The descriptor of a tensor's file, and where its bytes begin there; of tensors that can be read as weights.

        Raises:
            ModelFileError: as of :meth:`read`.
        """
        file = self._home_of(name)
        return file.fd, file.info(name).offset

    @property
    def files(self) -> list[SafetensorsFile]:
        """The opened files."""
        return self._files

    def _home_of(self, name: str) -> SafetensorsFile:
        try:
            return self._home[name]
        except KeyError:
            raise ModelFileError(f"{self.path}: there is no tensor {quoted(name)}") from None

    def close(self) -> None:
        """Close the files; reading is over."""
        for file in self._files:
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
