"""The base of decoders and encoders: it reads and packs weights, and declares the program.

Letters: V = vocabulary.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from pyml_core import cancel
from pyml_core.errors import Cancelled, PymlError
from pyml_core.kv_layout import KVLayout
from pyml_core.pickling import OfOneProcess
from pyml_core.program import Program
from pyml_core.tensor import PackedMatrix

from .adapters import Adapter, AdapterTerms
from .config import Dimensions
from .layers import Scratch
from .memory import MemoryPlan, activation_bytes, kv_layout
from .weights import NameRules, SourceWeights, Spec, Weights, WeightSource

if TYPE_CHECKING:
    from pyml_core.records import Slice
    from pyml_core.tensor import Tensor

C = TypeVar("C", bound=Dimensions)


_INSTEAD = "pickle the LanguageModel that has it, or load it in each process"


class Network(OfOneProcess, ABC, Generic[C], instead=_INSTEAD):
    """The weights of a model, and its program.

    Arguments, attributes and errors: see :class:`pyml_nn.Model` and :class:`pyml_nn.encoder.Encoder`.
    """

    rules: ClassVar[NameRules] = NameRules()

    def __init__(
        self,
        config: C,
        weights: Weights | WeightSource | Mapping[str, npt.NDArray[Any] | Tensor],
        dtype: str,
        threads: int | None,
        max_tokens: int,
        screen: bool,
        kv_dtype: str,
        adapters: Sequence[Adapter] = (),
    ) -> None:
        reader = _reader(self, config, weights, dtype, screen)
        reader.warn()
        terms = AdapterTerms(adapters, self.specs(config), self.rules, reader.gguf) if adapters else None
        reader.adapters = terms
        own = 0 if reader.mapped else reader.packed_bytes()
        own += sum(adapter.nbytes for adapter in adapters)
        MemoryPlan(own, 0, activation_bytes(config, max_tokens)).check()
        self.config = config
        self.kv_layout = self._layout(config, reader, kv_dtype)
        self._program: Program | None = Program(max_tokens, self.kv_layout, threads)
        self._max_tokens = max_tokens
        self._cancels = 0
        self.declare(reader, Scratch(self._program))
        reader.flush()
        if terms is not None:
            terms.check_used()
        self.n_params = reader.n_params
        self.weight_bytes = _weight_bytes(self._program)
        self.fingerprint = reader.fingerprint(f"{type(self).__module__} {json.dumps(asdict(config), sort_keys=True)}")

    @staticmethod
    @abstractmethod
    def specs(config: C) -> dict[str, Spec]:
        """Return all weights of a model of this configuration: internal name -> names in files and shape."""

    @abstractmethod
    def declare(self, weights: Weights, scratch: Scratch) -> None:
        """Read and pack the weights in the order of their use, and declare the program."""

    @staticmethod
    def _layout(config: C, reader: Weights, kv_dtype: str) -> KVLayout:
        """The geometry of the KV pages."""
        return kv_layout(config, reader.dtype, reader.quantized, kv_dtype)

    # ---- properties

    @property
    def program(self) -> Program:
        """The declared program; PymlError once the model is closed."""
        if self._program is None:
            raise PymlError("model: it is closed")
        return self._program

    @property
    def closed(self) -> bool:
        """Whether the model is closed."""
        return self._program is None

    @property
    def vocab_size(self) -> int:
        """Size of the vocabulary (V): the width of a row of logits."""
        return self.config.vocab_size

    @property
    def context_length(self) -> int:
        """Maximum number of positions of a sequence."""
        return self.config.context_length

    @classmethod
    def memory_plan(
        cls,
        config: C,
        weights: Weights | WeightSource | Mapping[str, npt.NDArray[Any] | Tensor],
        dtype: str,
        context_len: int,
        max_tokens: int = 512,
        kv_dtype: str = "auto",
    ) -> MemoryPlan:
        """Memory of the model with one sequence of ``context_len`` positions; no weight is read.

        Raises:
            WeightsError: the weights do not fit the configuration.
        """
        reader = _reader(cls, config, weights, dtype)
        cache = cls._layout(config, reader, kv_dtype).bytes_for(context_len)
        return MemoryPlan(reader.packed_bytes(), cache, activation_bytes(config, max_tokens))

    # ---- stopping

    def cancel(self) -> None:
        """Make all running calls of the model, in any thread, raise :class:`Cancelled`."""
        self._cancels += 1
        if self._program is not None:
            self._program.cancel()

    def close(self) -> None:
        """Release the weights; the model cannot be used afterwards.

        Running calls in other threads raise :class:`Cancelled`; the method waits for them.
        """
        program, self._program = self._program, None
        if program is not None:
            self._cancels += 1
            program.stop()

    def _uncancelled(self, runs: list[list[Slice]]) -> Iterator[list[Slice]]:
        """Yield the runs one after the other, until the model is cancelled."""
        cancels = self._cancels
        for batch in runs:
            if self._cancels != cancels:
                raise Cancelled("model: cancelled between two chunks")
            cancel.check()
            yield batch


def _reader(
    model: Network[Any] | type[Network[Any]],
    config: Any,
    weights: Weights | WeightSource | Mapping[str, npt.NDArray[Any] | Tensor],
    dtype: str,
    screen: bool = False,
) -> Weights:
    """Return the weights of a source; weights are returned as they are."""
    if isinstance(weights, Weights):
        return weights
    return SourceWeights(weights, model.specs(config), model.rules, dtype, screen)


def _weight_bytes(program: Program) -> int:
    """Bytes of all weights of a program's operations; shared matrices count once."""
    sizes: dict[int, int] = {}
    for operation in (*program.operations, *program.screening):
        for value in operation.params.values():
            for item in value if isinstance(value, tuple) else (value,):
                if isinstance(item, PackedMatrix | np.ndarray):
                    sizes[id(item)] = item.nbytes
    return sum(sizes.values())
