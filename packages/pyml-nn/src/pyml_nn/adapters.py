"""Adapters (LoRA): low-rank changes of a model's linear layers, chosen for each sequence.

An adapter changes the weight W of a layer to ``W + scale * B A``. W keeps its stored bits: the term is an operation of
its own (:mod:`pyml_core.ops.low_rank`).

Letters: R = rank, K and N = inputs and outputs of a matrix.

Source: Hu et al. 2021, arXiv 2106.09685.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pyml_core.errors import ShapeError
from pyml_core.ops.low_rank import LowRank
from pyml_core.tensor import PackedMatrix, Tensor, pack

from .errors import WeightsError
from .weights.names import NameRules, shown, without_prefix
from .weights.spec import Spec

MAX_ADAPTERS = 256
"""Maximum number of adapters of a model."""

MAX_RANK = 4096
"""Maximum rank: buffers are allocated for it."""


@dataclass(frozen=True, eq=False)
class AdapterModule:
    """The change of one matrix (N, K): ``scale * B A``.

    Attributes:
        a: A (R, K).
        b: B (N, R).
        scale: factor of the product.
    """

    a: Tensor
    b: Tensor
    scale: float


@dataclass(frozen=True, eq=False)
class Adapter:
    """A low-rank adapter, as it is in its file.

    Attributes:
        name: by which sequences choose it.
        modules: name of a weight in the model's files, possibly with the prefix of the whole model, -> its change.
        gguf: whether names and the order of rows are those of GGUF files (else of Hugging Face checkpoints).
        source: its file, for messages.
    """

    name: str
    modules: Mapping[str, AdapterModule]
    gguf: bool
    source: str = "adapter"

    @property
    def nbytes(self) -> int:
        """Bytes of all matrices."""
        return sum(module.a.nbytes + module.b.nbytes for module in self.modules.values())

    def fingerprint(self, model: str) -> str:
        """Hash of a model's fingerprint and everything that results depend on: 32 hexadecimal digits."""
        digest = hashlib.blake2b(f"{model} {self.gguf}".encode(), digest_size=16)
        for name, module in sorted(self.modules.items()):
            digest.update(f"\n{name} {module.scale!r} {module.a.dtype} {module.b.dtype} {module.a.shape}".encode())
            digest.update(module.a.data.data)
            digest.update(module.b.data.data)
        return digest.hexdigest()


class AdapterTerms:
    """The terms that the adapters of a model add to its linear layers.

    Args:
        adapters: the adapters, which get the numbers from 1 on.
        specs: the model's weights.
        rules: prefixes of names in checkpoints.
        gguf: whether the model's weights follow GGUF's conventions.

    Raises:
        WeightsError: too many adapters, two of one name, or one that does not fit the model.
    """

    def __init__(self, adapters: Sequence[Adapter], specs: Mapping[str, Spec], rules: NameRules, gguf: bool) -> None:
        if len(adapters) > MAX_ADAPTERS:
            raise WeightsError(f"adapters: expected at most {MAX_ADAPTERS}, found {len(adapters)}")
        self._adapters = adapters
        self._modules: list[dict[str, str]] = []
        expected: dict[str, list[str]] = {}
        for name, spec in specs.items():
            expected.setdefault(spec.gguf if gguf else spec.hf, []).append(name)
        for index, adapter in enumerate(adapters):
            if any(adapter.name == other.name for other in adapters[:index]):
                raise WeightsError(f"{adapter.source}: a second adapter named {shown(adapter.name)}, expected one")
            if adapter.gguf != gguf:
                kinds = ("a PEFT adapter", "a GGUF adapter")
                raise WeightsError(
                    f"{adapter.source}: {kinds[adapter.gguf]} for a model of the other format, "
                    f"expected {kinds[gguf]}: their rows may be in another order"
                )
            self._modules.append(_matched(adapter, expected, rules))

    def of(
        self,
        names: Sequence[str],
        matrices: Sequence[PackedMatrix],
        rows: Mapping[str, npt.NDArray[np.intp]],
    ) -> tuple[LowRank, ...]:
        """The terms of a linear layer with adjacent matrices.

        Args:
            names: internal names without ``.weight``.
            matrices: their matrices.
            rows: name -> order of the rows of its matrix, if it differs from the file's.

        Raises:
            WeightsError: matrices of another shape, or numbers that are not finite.
        """
        found = []
        for number, (adapter, modules) in enumerate(zip(self._adapters, self._modules, strict=True), 1):
            column = 0
            for name, matrix in zip(names, matrices, strict=True):
                if (file_name := modules.pop(f"{name}.weight", None)) is not None:
                    a, b = _packed(adapter, file_name, matrix, rows.get(name))
                    found.append(LowRank(number, column, a, b))
                column += matrix.shape[0]
        return tuple(found)

    def check_used(self) -> None:
        """Refuse adapters of weights that no linear layer has read: experts, or tables.

        Raises:
            WeightsError: there is one.
        """
        for adapter, modules in zip(self._adapters, self._modules, strict=True):
            for file_name in modules.values():
                raise WeightsError(_unsupported(adapter, file_name))


def _matched(adapter: Adapter, expected: Mapping[str, Sequence[str]], rules: NameRules) -> dict[str, str]:
    """Internal name of each weight -> its name in the adapter."""
    found: dict[str, str] = {}
    for file_name in adapter.modules:
        known = expected.get(file_name if adapter.gguf else without_prefix(file_name, rules.hf_prefixes), ())
        if not known:
            raise WeightsError(
                f"{adapter.source}: {shown(file_name)}: expected weights of this model, which has none of that name"
            )
        if len(known) > 1 or known[0] in ("embedding.weight", "head.weight"):
            raise WeightsError(_unsupported(adapter, file_name))
        if known[0] in found:
            raise WeightsError(
                f"{adapter.source}: {shown(file_name)}: a second change of the weight that {shown(found[known[0]])} "
                "changes, expected one"
            )
        found[known[0]] = file_name
    return found


def _unsupported(adapter: Adapter, file_name: str) -> str:
    return (
        f"{adapter.source}: {shown(file_name)}: expected changes of linear layers of attention and feed-forward; "
        "those of embeddings, heads and experts are not supported"
    )


def _packed(
    adapter: Adapter, file_name: str, matrix: PackedMatrix, order: npt.NDArray[np.intp] | None
) -> tuple[PackedMatrix, PackedMatrix]:
    """A and ``scale * B``, packed: in f32 next to an f32 matrix, else in 16 bits."""
    module, where = adapter.modules[file_name], f"{adapter.source}: {shown(file_name)}"
    a, b, (n_rows, columns) = module.a, module.b, matrix.shape
    rank = a.shape[0] if a.shape else 0
    if a.shape != (rank, columns) or b.shape != (n_rows, rank):
        raise WeightsError(f"{where}: expected A (R, {columns}) and B ({n_rows}, R), found {a.shape} and {b.shape}")
    if not 1 <= rank <= MAX_RANK:
        raise WeightsError(f"{where}: expected a rank from 1 to {MAX_RANK}, found {rank}")
    if not (a.is_finite() and b.is_finite()):
        raise WeightsError(f"{where}: expected finite numbers")
    with np.errstate(over="ignore"):
        scaled = b.to_f32() * np.float32(module.scale)
    if not np.isfinite(scaled).all():
        raise WeightsError(f"{where}: expected finite numbers, found some that are not after scaling")
    scaled = scaled if order is None else scaled[order]
    exact = matrix.dtype == "f32"
    return pack(_narrowed(a, a.dtype, exact)), pack(_narrowed(Tensor.from_array(scaled), b.dtype, exact))


def _narrowed(tensor: Tensor, stored: str, exact: bool) -> Tensor:
    """A tensor in the type that it is multiplied in: 16 bits (f16, unless it was stored in bf16) if they hold it."""
    wanted = "f32" if exact else "bf16" if stored == "bf16" else "f16"
    try:
        narrow = tensor.convert(wanted)
    except ShapeError:
        return tensor.convert("f32")
    return narrow if narrow.is_finite() else tensor.convert("f32")
