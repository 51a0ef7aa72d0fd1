"""The tensors of a model that a trace can keep: their names, how a run is asked for them, and what they take.

Letters: T = tokens, W = width of an output, H = key/value heads, D = head_dim, P = positions that want logits,
S = positions of the sequence up to the last token.
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
    from pyml_core.graph import Operation, Slice
    from pyml_core.program import Program

F32Array = npt.NDArray[np.float32]


class TracedTensor(NamedTuple):
    """One tensor that can be asked for.

    Attributes:
        name: ``layers.3``, ``layers.3.attention.probabilities``, ...
        operation: whose end is the moment of the copy.
        part: ``output`` (T, W) or (P, W), ``q`` (T, heads, D), ``k`` or ``v`` (T, H, D), ``scores`` or
            ``probabilities`` (heads, T, S).
    """

    name: str
    operation: Operation
    part: str


def tensors_of(program: Program) -> dict[str, TracedTensor]:
    """Every tensor of a program by name, in the order in which they come to be.

    An operation's name is that of its output. ``layers.N`` is the output of the layer's last operation, the hidden
    state after the block; ``logits`` that of the last operation of all.
    """
    found: dict[str, TracedTensor] = {}

    def add(name: str, operation: Operation, part: str = "output") -> None:
        found[name] = TracedTensor(name, operation, part)

    operations = program.operations
    for operation, following in zip(operations, [*(op.name for op in operations[1:]), ""], strict=True):
        name = operation.name
        add(name, operation)
        around = name.rpartition(".")[0]
        parts = {"prepare_qkv": ("q", "k", "v"), "attention": ("scores", "probabilities")}.get(operation.kind, ())
        for part in parts:
            add(f"{around}.{part}", operation, part)
        layer = ".".join(name.split(".")[:2])
        if name.startswith("layers.") and not following.startswith(f"{layer}."):
            add(layer, operation)
    add("logits", operations[-1])
    return found


class Wanted:
    """What one run is asked to leave for some tensors.

    Args:
        tensors: without their repetitions; they may come from several traces.
        program: whose run it is.
    """

    def __init__(self, tensors: Iterable[TracedTensor], program: Program) -> None:
        self._tensors = list(tensors)
        self._program = program
        captures: dict[tuple[Operation, str], Capture] = {}
        for tensor in self._tensors:
            if tensor.part not in ("k", "v"):  # these are read where they stay: in the pages
                what = tensor.part if tensor.part in ("scores", "probabilities") else "output"
                captures.setdefault((tensor.operation, what), Capture(tensor.operation, what))
        self._captures = captures

    @property
    def captures(self) -> Sequence[Capture]:
        """For a run of the program, which fills them."""
        return list(self._captures.values())

    def nbytes(self, part: Slice) -> int:
        """Bytes that a slice will take."""
        cached = sum(tensor.part in ("k", "v") for tensor in self._tensors)
        if self._program.kv is not None:
            cached *= 4 * len(part.ids) * self._program.kv.n_kv_heads * self._program.kv.head_dim
        return cached + sum(capture.nbytes(part) for capture in self._captures.values())

    def take(self, slices: Sequence[Slice]) -> list[dict[str, F32Array]]:
        """The tensors of each slice after the run, by name; not to be written to."""
        found = []
        for index, part in enumerate(slices):
            arrays = {tensor.name: self._array(tensor, index, part) for tensor in self._tensors}
            for array in arrays.values():
                array.flags.writeable = False
            found.append(arrays)
        return found

    def _array(self, tensor: TracedTensor, index: int, part: Slice) -> F32Array:
        kv, params = self._program.kv, tensor.operation.params
        if kv is not None and tensor.part in ("k", "v"):
            first = part.start // PAGE_TOKENS
            length = part.start + len(part.ids) - first * PAGE_TOKENS
            both = read_kv(kv, part.pages[first:], params["layer"], length)
            return np.ascontiguousarray(both["kv".index(tensor.part)].swapaxes(0, 1)[-len(part.ids) :])
        if kv is not None and tensor.part == "q":
            rows = self._captures[tensor.operation, "output"].arrays[index]
            return rows[:, : params["n_heads"] * kv.head_dim].reshape(len(rows), params["n_heads"], kv.head_dim)
        return self._captures[tensor.operation, tensor.part].arrays[index][...]


def after(array: F32Array, tensor: TracedTensor, count: int) -> F32Array:
    """What a slice has of a tensor, but for its first ``count`` tokens."""
    if not count or tensor.operation.output.rows == "outputs":
        return array
    if tensor.part in ("scores", "probabilities"):
        return array[:, count:]
    return array[count * (tensor.operation.output.copies if tensor.part == "output" else 1) :]


def joined(arrays: Sequence[F32Array], part: str) -> F32Array:
    """Consecutive pieces of one tensor as one, along its tokens; keys that a piece does not reach are masked."""
    if len(arrays) == 1 or part not in ("scores", "probabilities"):
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    keys, empty = max(array.shape[2] for array in arrays), -np.inf if part == "scores" else 0.0
    padded: list[Any] = []
    for array in arrays:
        padding = ((0, 0), (0, 0), (0, keys - array.shape[2]))
        padded.append(np.pad(array, padding, constant_values=empty))
    return np.concatenate(padded, axis=1)
