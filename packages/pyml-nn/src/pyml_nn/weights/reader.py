"""Weights: where they come from, what they are called, which block type they get, that none is missing or left over.

A model gives every weight one internal name (``layers.3.attention.q.weight``) with its name in Hugging Face
checkpoints, its name in GGUF files and its shape. :class:`Weights` compares that list with a source before anything is
read, and then hands the weights out one at a time, packed.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pyml_core.dtypes import BLOCK_TYPES
from pyml_core.errors import ShapeError
from pyml_core.from_file import NOT_FINITE, Part, can_be_made
from pyml_core.panels import packed_nbytes
from pyml_core.tensor import PackedMatrix, Tensor, empty_matrix, pack, pack_parts

from ..errors import WeightsError, show
from ..layers.linear import Linear
from .names import NameRules, find
from .reads import Reads
from .source import ArrayWeights, FileSource, WeightSource
from .spec import DTYPES, Spec, is_matrix, matrix_type, screened

F32Array = npt.NDArray[np.float32]

_log = logging.getLogger("pyml.load")

PART_BYTES = 32 << 20
"""Bytes, as float32, of what is read and packed of a matrix at a time."""


class Weights:
    """The weights of one model in one source: checked as a whole, then read one by one.

    Args:
        source: where tensors are read from; a mapping of names to arrays does as well.
        specs: internal name -> what the model wants.
        rules: how names are written.
        dtype: one of :data:`DTYPES`; see :func:`matrix_type`.
        screen: pack the head so that it can be screened, where that pays (:func:`screened`).

    Attributes:
        gguf: whether the source uses GGUF's names and conventions (else Hugging Face's).
        left_out: numbers of the source's layers that the model does not have.
        n_params: numbers read so far, each shared matrix once.

    Raises:
        WeightsError: an unknown dtype; a weight missing, unknown, given twice, or of another shape. When it is read: a
            weight that is not finite, or that its block type cannot hold.
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
        self._dtype = dtype
        self._specs = specs
        self._reads = Reads(self._source)
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
        """One matrix, packed; its rows in the order of ``rows`` where the file has them in another.

        What can be packed straight from a file is there after :meth:`fill` alone.
        """
        shape, dtype = self._specs[name].shape, self._packed_type(name)
        head = "head.weight" if self.has("head.weight") else "embedding.weight"
        split = self._screen and name == head and screened(dtype, shape)
        file, stored = self._reads.file, self._source.dtype(self._file_names[name])
        if file is not None and can_be_made(dtype, stored) and not self._transposed(name):
            return self._later(file, name, empty_matrix(dtype, shape, split), rows)
        if rows is not None:
            return pack(self._converted(name, self._read(name).take_rows(rows), dtype))
        return pack_parts((self._converted(name, part, dtype) for part in self._parts(name)), dtype, shape, split)

    def array(self, name: str) -> F32Array:
        """One norm, bias or position table as float32, which such weights always are."""
        self._reads.read_early(
            file_name for name, file_name in self._file_names.items() if not is_matrix(name, self._specs[name].shape)
        )
        return self._read(name).to_f32()

    def linear(self, *names: str, rows: Mapping[str, npt.NDArray[np.intp]] | None = None) -> Linear:
        """A linear layer of ``<name>.weight`` side by side, with ``<name>.bias`` where there is one.

        Args:
            names: internal names without ``.weight``.
            rows: orders of rows by name, see :meth:`matrix`; biases follow.
        """
        rows = rows or {}
        matrices = tuple(self.matrix(f"{name}.weight", rows.get(name)) for name in names)
        if not any(self.has(f"{name}.bias") for name in names):
            return Linear(matrices)
        biases = []
        for name, matrix in zip(names, matrices, strict=True):
            bias = self.array(f"{name}.bias") if self.has(f"{name}.bias") else np.zeros(matrix.shape[0], np.float32)
            biases.append(bias[rows[name]] if name in rows else bias)
        return Linear(matrices, np.concatenate(biases))

    def head(self, name: str, embedding: PackedMatrix, tied: bool) -> PackedMatrix:
        """The head's matrix, or the embedding's where the source has none and ``tied`` allows it.

        It is the last matrix of a model, and all are there with it: see :meth:`fill`.

        Raises:
            WeightsError: there is none, and the head is not tied.
        """
        if not self.has(name) and not tied:
            raise WeightsError(f"{self._wanted_name(name)}: missing, and the configuration does not tie the head")
        head = self.matrix(name) if self.has(name) else embedding
        self.fill()
        return head

    def warn(self) -> None:
        """Warn of what the source has and the model leaves out."""
        if self.left_out:
            first, last = self.left_out[0], self.left_out[-1]
            layers = f"layer {first} is" if first == last else f"layers {first} to {last} are"
            _log.warning("weights: %s left out, since the configuration has fewer layers", layers)

    def fill(self) -> None:
        """Read and pack the matrices that wait for it: many in a call."""
        self._reads.fill()

    def packed_bytes(self) -> int:
        """How many bytes all weights will take once packed; nothing is read."""
        return sum(nbytes for _, nbytes in self.packed_sizes().values())

    @property
    def quantized(self) -> bool:
        """Whether any weight is packed in a quantised type."""
        return any(BLOCK_TYPES[dtype].quantized for dtype, _ in self.packed_sizes().values())

    def packed_sizes(self) -> dict[str, tuple[str, int]]:
        """By the tensor's name in the file: the block type of what is made of it, and its bytes in memory."""
        sizes: dict[str, tuple[str, int]] = {}
        for name, file_name in self._file_names.items():
            shape, dtype = self._specs[name].shape, "f32"
            if is_matrix(name, shape):
                dtype = self._packed_type(name)
                nbytes = packed_nbytes(dtype, shape)
            else:
                nbytes = BLOCK_TYPES[dtype].nbytes(shape)
            sizes[file_name] = dtype, nbytes + sizes.get(file_name, ("", 0))[1]  # a tensor may hold several matrices
        return sizes

    def fingerprint(self, config_text: str) -> str:
        """32 hexadecimal digits that tell this model from others: configuration, types, all bytes that were read."""
        digest = self._reads.digest()
        digest.update(f"{self._dtype} {config_text}".encode())
        return digest.hexdigest()

    # ---- names and shapes

    def _match(self, names: Sequence[str], rules: NameRules) -> dict[str, str]:
        """Internal name -> the file's name."""
        wanted: dict[str, list[str]] = {}
        for name, spec in self._specs.items():
            wanted.setdefault(spec.gguf if self.gguf else spec.hf, []).append(name)
        wanted.pop("", None)
        match = find(names, wanted, rules, self.gguf)
        found, self.left_out = match.names, match.left_out
        # Of a tied pair, a checkpoint may have either.
        if "embedding.weight" not in found and "head.weight" in found and self._specs["head.weight"].optional:
            found["embedding.weight"] = found.pop("head.weight")
        for name, spec in self._specs.items():
            if name not in found and not spec.optional:
                raise WeightsError(
                    f"{self._wanted_name(name)}: missing, expected a tensor of shape {self._file_shape(name)}"
                )
        self._check_groups(found)
        return {name: found[name] for name in self._specs if name in found}

    def _check_groups(self, found: Mapping[str, str]) -> None:
        """Refuse a source that has a part of a group of optional weights."""
        present = {self._specs[name].optional: file_name for name, file_name in found.items()}
        for name, spec in self._specs.items():
            if name not in found and spec.optional in present:
                raise WeightsError(
                    f"{self._wanted_name(name)}: missing, expected a tensor of shape {self._file_shape(name)}, because "
                    f"the file has {present[spec.optional]}"
                )

    def _wanted_name(self, name: str) -> str:
        return self._specs[name].gguf if self.gguf else self._specs[name].hf

    def _transposed(self, name: str) -> bool:
        return self._specs[name].hf_transposed and not self.gguf

    def _packed_type(self, name: str) -> str:
        spec = self._specs[name]
        if spec.exact:
            return "f32"
        return matrix_type(self._source.dtype(self._file_names[name]), spec.shape, self._dtype, self.gguf)

    def _stack_index(self, name: str) -> int | None:
        """Which matrix of a stacked tensor it is."""
        return self._specs[name].gguf_index if self.gguf else None

    def _file_shape(self, name: str) -> tuple[int, ...]:
        """The shape of the tensor that holds a weight."""
        spec = self._specs[name]
        if self._stack_index(name) is not None:
            return (self._stacked[spec.gguf], *spec.shape)
        return spec.shape[::-1] if self._transposed(name) else spec.shape

    def _check_shape(self, name: str) -> None:
        expected, file_name = self._file_shape(name), self._file_names[name]
        found = tuple(self._source.shape(file_name))
        if found != expected:
            raise WeightsError(f"{file_name}: expected shape {expected}, found {found}")

    def _later(
        self, file: FileSource, name: str, matrix: PackedMatrix, order: npt.NDArray[np.intp] | None
    ) -> PackedMatrix:
        """A matrix that is read when :meth:`fill` is called."""
        n_rows, columns = matrix.shape
        stored, index = self._source.dtype(self._file_names[name]), self._stack_index(name)
        row = BLOCK_TYPES[stored].nbytes((columns,))
        fd, offset = file.place(self._file_names[name])
        offset += (index or 0) * n_rows * row
        step = _part_rows(columns) if order is None and index is None else n_rows
        for start in range(0, n_rows, step):
            part = Part(matrix, start, min(step, n_rows - start), fd, offset + start * row, stored, order)
            self._reads.later(name, part)
        self.n_params += n_rows * columns
        return matrix

    def _parts(self, name: str) -> Iterator[Tensor]:
        """A matrix in parts of whole panels and some megabytes, so that it is never in memory twice."""
        n_rows, columns = self._specs[name].shape
        step = _part_rows(columns)
        if self._transposed(name) or n_rows <= step:
            yield self._read(name)
            return
        if self._stack_index(name) is not None:  # as it is stored, one matrix is in memory at a time
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
            tensor = self._reads.tensor(file_name, index, index + 1).reshape(*self._specs[name].shape)
        else:
            tensor = self._reads.tensor(file_name, start, stop)
        if not tensor.is_finite():
            raise WeightsError(f"{file_name}: {NOT_FINITE}")
        self._reads.note(name, tensor)
        self.n_params += int(np.prod(tensor.shape, dtype=np.int64))
        return transposed(tensor) if self._transposed(name) else tensor

    def _converted(self, name: str, tensor: Tensor, dtype: str) -> Tensor:
        """Finite weights in another block type; WeightsError for numbers that it cannot hold."""
        try:
            converted = tensor.convert(dtype)
        except ShapeError as error:
            raise WeightsError(f"{self._file_names[name]}: {error}") from None
        if converted is not tensor and not converted.is_finite():
            raise WeightsError(f"{self._file_names[name]}: expected numbers that {dtype} can hold, found larger ones")
        return converted


def transposed(tensor: Tensor) -> Tensor:
    """A float matrix's transpose, in the same type."""
    bits = tensor.data.view({2: np.uint16, 4: np.uint32}[BLOCK_TYPES[tensor.dtype].type_size]).reshape(tensor.shape)
    return Tensor(np.ascontiguousarray(bits.T).reshape(-1).view(np.uint8), tensor.dtype, tensor.shape[::-1])


def _part_rows(columns: int) -> int:
    """How many rows of a matrix to read and pack at a time: whole panels."""
    return max(1, PART_BYTES // BLOCK_TYPES["f32"].nbytes((16, columns))) * 16
