"""Reading the weights of a model: a check of names and shapes, then packed matrices and float32 arrays.

A model has an internal name for each weight (``layers.3.attention.q.weight``), with its name in Hugging Face
checkpoints, its name in GGUF files and its shape. :class:`SourceWeights` compares that list with a source before
anything is read, and then returns the weights one at a time, packed.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pyml_core.block_types import BLOCK_TYPES
from pyml_core.errors import ShapeError
from pyml_core.from_file import NOT_FINITE, Part, can_be_made
from pyml_core.panels import packed_nbytes
from pyml_core.tensor import PackedMatrix, Tensor, empty_matrix, pack, pack_parts

from ..errors import WeightsError, show
from .names import NameRules, find
from .read_queue import ReadQueue
from .source import ArrayWeights, FileSource, WeightSource
from .spec import DTYPES, Spec, is_matrix, is_screened, matrix_type
from .weights import F32Array, Weights

_log = logging.getLogger("pyml.load")

PART_BYTES = 32 << 20
"""Bytes, as float32, of the rows of a matrix that are read and packed at a time."""


class SourceWeights(Weights):
    """The weights of one model in one source of tensors: all are checked first, then read one by one.

    Args:
        source: source of the tensors, or a mapping of names to arrays.
        specs: internal name -> names in files and shape.
        rules: prefixes and ignored names.
        dtype: one of :data:`DTYPES`; see :func:`matrix_type`.
        screen: pack the head for screening if that is faster (:func:`is_screened`).

    Attributes:
        extra_layers: indices of the source's layers that the model does not have.

    Raises:
        WeightsError: an unknown dtype; a weight missing, unknown, given twice, or of another shape. When it is read: a
            weight that is not finite, or out of range of its block type.
    """

    def __init__(
        self,
        source: WeightSource | Mapping[str, npt.NDArray[Any] | Tensor],
        specs: Mapping[str, Spec],
        rules: NameRules,
        dtype: str = "auto",
        screen: bool = False,
    ) -> None:
        if dtype not in DTYPES:
            raise WeightsError(f"dtype: expected one of {', '.join(DTYPES)}, found {show(dtype)}")
        self._source = ArrayWeights(source) if isinstance(source, Mapping) else source
        self.dtype = dtype
        self._specs = specs
        self._queue = ReadQueue(self._source)
        self._screen = screen
        self.n_params = 0
        names = self._source.names()
        self._stacked = Counter(spec.gguf for spec in specs.values() if spec.gguf_index is not None)
        self.gguf = "token_embd.weight" in names
        self._file_names = self._match(names, rules)
        for name in self._file_names:
            self._check_shape(name)

    def has(self, name: str) -> bool:
        """Whether the source has this (optional) weight."""
        return name in self._file_names

    def matrix(self, name: str, rows: npt.NDArray[np.intp] | None = None) -> PackedMatrix:
        """Read and pack a matrix; ``rows`` is the order of its rows, if it differs from the file's.

        A matrix that can be packed straight from a file is undefined until :meth:`flush`.
        """
        shape, dtype = self._specs[name].shape, self._packed_type(name)
        head = "head.weight" if self.has("head.weight") else "embedding.weight"
        split = self._screen and name == head and is_screened(dtype, shape) and not self.has("head.bias")
        file, stored = self._queue.file, self._source.dtype(self._file_names[name])
        direct = file is not None and file.is_stored(self._file_names[name]) and not self._transposed(name)
        if file is not None and direct and can_be_made(dtype, stored):
            return self._enqueue(file, name, empty_matrix(dtype, shape, split), rows)
        if rows is not None:
            return pack(self._converted(name, self._read(name).take_rows(rows), dtype))
        return pack_parts((self._converted(name, part, dtype) for part in self._parts(name)), dtype, shape, split)

    def array(self, name: str) -> F32Array:
        """Read a norm, bias or position table as float32, which such weights always are."""
        self._queue.prefetch(
            file_name for name, file_name in self._file_names.items() if not is_matrix(name, self._specs[name].shape)
        )
        return self._read(name).to_f32()

    def warn(self) -> None:
        """Log a warning about layers of the source that the model does not have."""
        if self.extra_layers:
            first, last = self.extra_layers[0], self.extra_layers[-1]
            layers = f"layer {first} is" if first == last else f"layers {first} to {last} are"
            _log.warning("weights: %s left out, since the configuration has fewer layers", layers)

    def flush(self) -> None:
        """Read and pack all queued matrices, many in a call."""
        self._queue.flush()

    @property
    def quantized(self) -> bool:
        """Whether any weight is packed in a quantised type."""
        return any(BLOCK_TYPES[dtype].quantized for dtype, _ in self.packed_sizes().values())

    def packed_sizes(self) -> dict[str, tuple[str, int]]:
        """Name of a tensor in the file -> block type that it is packed in, and bytes in memory."""
        sizes: dict[str, tuple[str, int]] = {}
        for name, file_name in self._file_names.items():
            shape, dtype = self._specs[name].shape, "f32"
            if is_matrix(name, shape):
                dtype = self._packed_type(name)
                nbytes = packed_nbytes(dtype, shape)
            else:
                nbytes = BLOCK_TYPES[dtype].nbytes(shape)
            sizes[file_name] = dtype, nbytes + sizes.get(file_name, ("", 0))[1]  # a tensor may stack several matrices
        return sizes

    def fingerprint(self, config_text: str) -> str:
        """Hash of configuration, types and all bytes that were read: 32 hexadecimal digits."""
        digest = self._queue.digest()
        digest.update(f"{self.dtype} {config_text}".encode())
        return digest.hexdigest()

    # ---- names and shapes

    def _match(self, names: Sequence[str], rules: NameRules) -> dict[str, str]:
        """Match the weights: internal name -> the file's name."""
        expected: dict[str, list[str]] = {}
        for name, spec in self._specs.items():
            expected.setdefault(spec.gguf if self.gguf else spec.hf, []).append(name)
        expected.pop("", None)
        matches = find(names, expected, rules, self.gguf)
        found, self.extra_layers = matches.names, matches.extra_layers
        # A checkpoint may have either one of a tied pair.
        if "embedding.weight" not in found and "head.weight" in found and self._specs["head.weight"].optional:
            found["embedding.weight"] = found.pop("head.weight")
        for name, spec in self._specs.items():
            if name not in found and not spec.optional:
                raise WeightsError(
                    f"{self._expected_name(name)}: missing, expected a tensor of shape {self._file_shape(name)}"
                )
        self._check_groups(found)
        return {name: found[name] for name in self._specs if name in found}

    def _check_groups(self, found: Mapping[str, str]) -> None:
        """Refuse a source that has only some weights of an optional group."""
        present = {self._specs[name].optional: file_name for name, file_name in found.items()}
        for name, spec in self._specs.items():
            if name not in found and spec.optional in present:
                raise WeightsError(
                    f"{self._expected_name(name)}: missing, expected a tensor of shape {self._file_shape(name)}, "
                    f"because the file has {present[spec.optional]}"
                )

    def _expected_name(self, name: str) -> str:
        return self._specs[name].gguf if self.gguf else self._specs[name].hf

    def _transposed(self, name: str) -> bool:
        return self._specs[name].hf_transposed and not self.gguf

    def _packed_type(self, name: str) -> str:
        spec = self._specs[name]
        if spec.exact:
            return "f32"
        return matrix_type(self._source.dtype(self._file_names[name]), spec.shape, self.dtype, self.gguf)

    def _stack_index(self, name: str) -> int | None:
        """Index of a matrix in a stacked tensor; None: it is not stacked."""
        return self._specs[name].gguf_index if self.gguf else None

    def _file_shape(self, name: str) -> tuple[int, ...]:
        """Shape of the tensor that contains a weight."""
        spec = self._specs[name]
        if self._stack_index(name) is not None:
            return (self._stacked[spec.gguf], *spec.shape)
        return spec.shape[::-1] if self._transposed(name) else spec.shape

    def _check_shape(self, name: str) -> None:
        expected, file_name = self._file_shape(name), self._file_names[name]
        found = tuple(self._source.shape(file_name))
        if found != expected:
            raise WeightsError(f"{file_name}: expected shape {expected}, found {found}")

    def _enqueue(
        self, file: FileSource, name: str, matrix: PackedMatrix, order: npt.NDArray[np.intp] | None
    ) -> PackedMatrix:
        """Queue a matrix, which :meth:`flush` reads."""
        n_rows, columns = matrix.shape
        stored, index = self._source.dtype(self._file_names[name]), self._stack_index(name)
        row = BLOCK_TYPES[stored].nbytes((columns,))
        fd, offset = file.place(self._file_names[name])
        offset += (index or 0) * n_rows * row
        step = _part_rows(columns) if order is None and index is None else n_rows
        for start in range(0, n_rows, step):
            part = Part(matrix, start, min(step, n_rows - start), fd, offset + start * row, stored, order)
            self._queue.enqueue(name, part)
        self.n_params += n_rows * columns
        return matrix

    def _parts(self, name: str) -> Iterator[Tensor]:
        """Yield a matrix in pieces of whole panels, some megabytes each, so that it is never in memory twice."""
        n_rows, columns = self._specs[name].shape
        step = _part_rows(columns)
        if self._transposed(name) or n_rows <= step:
            yield self._read(name)
            return
        if self._stack_index(name) is not None:  # one stored matrix is in memory at a time
            matrix = self._read(name)
            for start in range(0, n_rows, step):
                yield matrix.rows(start, min(start + step, n_rows))
            return
        for start in range(0, n_rows, step):
            yield self._read(name, start, min(start + step, n_rows))

    def _read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        file_name = self._file_names[name]
        index = self._stack_index(name)
        if index is not None:
            tensor = self._queue.read(file_name, index, index + 1).reshape(*self._specs[name].shape)
        else:
            tensor = self._queue.read(file_name, start, stop)
        if not tensor.is_finite():
            raise WeightsError(f"{file_name}: {NOT_FINITE}")
        self._queue.add_to_digest(name, tensor)
        self.n_params += int(np.prod(tensor.shape, dtype=np.int64))
        if not self._transposed(name):
            return tensor
        if BLOCK_TYPES[tensor.dtype].quantized:
            raise WeightsError(f"{file_name}: expected floats, which can be transposed, got {tensor.dtype}")
        return transposed(tensor)

    def _converted(self, name: str, tensor: Tensor, dtype: str) -> Tensor:
        """Convert finite weights to another block type; WeightsError if a number is out of its range."""
        try:
            converted = tensor.convert(dtype)
        except ShapeError as error:
            raise WeightsError(f"{self._file_names[name]}: {error}") from None
        if converted is not tensor and not converted.is_finite():
            raise WeightsError(f"{self._file_names[name]}: expected numbers that {dtype} can hold, found larger ones")
        return converted


def transposed(tensor: Tensor) -> Tensor:
    """Return the transpose of a float matrix, without changing its type."""
    bits = tensor.data.view({2: np.uint16, 4: np.uint32}[BLOCK_TYPES[tensor.dtype].type_size]).reshape(tensor.shape)
    return Tensor(np.ascontiguousarray(bits.T).reshape(-1).view(np.uint8), tensor.dtype, tensor.shape[::-1])


def _part_rows(columns: int) -> int:
    """Number of rows of a matrix to read and pack at a time: whole panels."""
    return max(1, PART_BYTES // BLOCK_TYPES["f32"].nbytes((16, columns))) * 16
