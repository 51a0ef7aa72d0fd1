"""The tensors of a model that a trace can record: their names, their sizes, and their capture in a run.

Letters: T = tokens, W = width of an output, H = key/value heads, D = head_dim, P = positions whose logits are
requested, S = positions of the sequence up to the last token.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pyml_core.kv_layout import PAGE_TOKENS
from pyml_core.ops.kv_cache import read_kv
from pyml_core.timing import Capture

if TYPE_CHECKING:
    from pyml_core.program import Program
    from pyml_core.records import Operation, Slice

F32Array = npt.NDArray[np.float32]


class TracedTensor(NamedTuple):
    """One tensor that can be recorded.

    Attributes:
        name: ``layers.3``, ``layers.3.attention.probabilities``, ...
        operation: the operation after which the tensor is copied.
        kind: ``output`` (T, W) or (P, W), ``q`` (T, heads, D), ``k`` or ``v`` (T, H, D), ``scores`` or
            ``probabilities`` (heads, T, S).
    """

    name: str
    operation: Operation
    kind: str


def tensors_of(program: Program) -> dict[str, TracedTensor]:
    """All tensors of a program by name, in the order of their computation.

    The output of an operation has the operation's name. ``layers.N`` is the output of the layer's last operation, the
    hidden state after the block; ``logits`` is the output of the program's last operation.
    """
    found: dict[str, TracedTensor] = {}

    def add(name: str, operation: Operation, kind: str = "output") -> None:
        found[name] = TracedTensor(name, operation, kind)

    operations = program.operations
    for operation, following in zip(operations, [*(op.name for op in operations[1:]), ""], strict=True):
        name = operation.name
        add(name, operation)
        around = name.rpartition(".")[0]
        kinds = {"prepare_qkv": ("q", "k", "v"), "attention": ("scores", "probabilities")}.get(operation.kind, ())
        for kind in kinds:
            add(f"{around}.{kind}", operation, kind)
        layer = ".".join(name.split(".")[:2])
        if name.startswith("layers.") and not following.startswith(f"{layer}."):
            add(layer, operation)
    add("logits", operations[-1])
    return found


class CaptureSet:
    """The captures that one run of a program needs for some tensors.

    Args:
        tensors: the tensors, each once.
        program: the program.
    """

    def __init__(self, tensors: Iterable[TracedTensor], program: Program) -> None:
        self._tensors = list(tensors)
        self._program = program
        captures: dict[tuple[Operation, str], Capture] = {}
        for tensor in self._tensors:
            if tensor.kind not in ("k", "v"):  # these are read from the pages of the cache
                kind = tensor.kind if tensor.kind in ("scores", "probabilities") else "output"
                captures.setdefault((tensor.operation, kind), Capture(tensor.operation, kind))
        self._captures = captures

    @property
    def captures(self) -> Sequence[Capture]:
        """The captures to pass to the run, which fills them."""
        return list(self._captures.values())

    def nbytes(self, slice_: Slice) -> int:
        """Bytes of the tensors of a slice."""
        cached = sum(tensor.kind in ("k", "v") for tensor in self._tensors)
        if self._program.kv is not None:
            cached *= 4 * len(slice_.ids) * self._program.kv.n_kv_heads * self._program.kv.head_dim
        return cached + sum(capture.nbytes(slice_) for capture in self._captures.values())

    def take(self, batch: Sequence[Slice]) -> list[dict[str, F32Array]]:
        """Return the tensors of each slice after the run: name -> read-only array."""
        found = []
        for index, slice_ in enumerate(batch):
            arrays = {tensor.name: self._array(tensor, index, slice_) for tensor in self._tensors}
            for array in arrays.values():
                array.flags.writeable = False
            found.append(arrays)
        return found

    def _array(self, tensor: TracedTensor, index: int, slice_: Slice) -> F32Array:
        kv, params = self._program.kv, tensor.operation.params
        if kv is not None and tensor.kind in ("k", "v"):
            first = slice_.start // PAGE_TOKENS
            length = slice_.start + len(slice_.ids) - first * PAGE_TOKENS
            both = read_kv(kv, slice_.pages[first:], params["layer"], length)
            return np.ascontiguousarray(both["kv".index(tensor.kind)].swapaxes(0, 1)[-len(slice_.ids) :])
        if kv is not None and tensor.kind == "q":
            rows = self._captures[tensor.operation, "output"].arrays[index]
            return rows[:, : params["n_heads"] * kv.head_dim].reshape(len(rows), params["n_heads"], kv.head_dim)
        return self._captures[tensor.operation, tensor.kind].arrays[index][...]


def from_token(array: F32Array, tensor: TracedTensor, count: int) -> F32Array:
    """Return a tensor of a slice without its first ``count`` tokens."""
    if not count or tensor.operation.output.rows == "outputs":
        return array
    if tensor.kind in ("scores", "probabilities"):
        return array[:, count:]
    return array[count * (tensor.operation.output.copies if tensor.kind == "output" else 1) :]


def concatenated(arrays: Sequence[F32Array], kind: str) -> F32Array:
    """Concatenate consecutive pieces of one tensor along its tokens; keys beyond those of a piece are masked."""
    if len(arrays) == 1 or kind not in ("scores", "probabilities"):
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    keys, empty = max(array.shape[2] for array in arrays), -np.inf if kind == "scores" else 0.0
    padded: list[Any] = []
    for array in arrays:
        padding = ((0, 0), (0, 0), (0, keys - array.shape[2]))
        padded.append(np.pad(array, padding, constant_values=empty))
    return np.concatenate(padded, axis=1)
