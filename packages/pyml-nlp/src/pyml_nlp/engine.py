"""The parts of a loaded model that generation uses: runs, tokens, caches and limits. The facade above it is
:class:`.LanguageModel`.

Letters: V = vocabulary size.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from pyml_core.errors import PymlError, quoted
from pyml_core.locks import Lock, importing
from pyml_core.pickling import OfOneProcess
from pyml_core.want import ALL_LOGITS, Want
from pyml_nn.trace import traces_of

from . import logs, memory
from .errors import ArgumentError
from .generation.prefill_budget import PrefillCosts
from .generation.prefix_cache import PrefixCache
from .generation.speculation import Costs
from .options.adapters import adapter_name
from .options.checks import instance
from .values import whole

if TYPE_CHECKING:
    from pyml_core.kv_layout import KVLayout
    from pyml_nn import KVCache
    from pyml_nn.batching import Input
    from pyml_nn.model import Model

    from .structured.vocabulary import Vocabulary
    from .tokenizer import Tokenizer


class Engine(OfOneProcess, instead="pickle the LanguageModel that has it"):
    """A model, its tokenizer, and the state that all generators of the model share.

    Args:
        model: ids to logits.
        tokenizer: text to ids and back.
        eos_ids: tokens that end a text.
        context_length: most positions of a sequence; None: as many as the model was made for.
        prefill_chunk: most tokens of a prompt that run at once.
        name: the model's name in messages.
        prefix_cache: where keys and values are kept for later prompts; None: one of the default size.

    Attributes:
        model, tokenizer, prefill_chunk, name: as given.
        eos_ids: as given, a frozen set.
        context_length: most positions of a sequence.
        costs: the measured cost of runs of several tokens; see :class:`Costs`.
        prefill_costs: the measured cost of tokens of prompts; see :class:`PrefillCosts`.

    Several threads may use it, each with caches of its own: runs of the model take turns.
    """

    def __init__(
        self,
        model: Model[Any],
        tokenizer: Tokenizer,
        eos_ids: Iterable[int] = (),
        context_length: int | None = None,
        prefill_chunk: int = 512,
        name: str = "",
        prefix_cache: PrefixCache | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.eos_ids = frozenset(eos_ids)
        self.context_length = model.context_length if context_length is None else context_length
        self.prefill_chunk = prefill_chunk
        self.name = name
        self.costs = Costs()
        self.prefill_costs = PrefillCosts(self.costs)
        self.prefix_cache = PrefixCache() if prefix_cache is None else prefix_cache
        self._closed = False
        self._vocabulary: Vocabulary | None = None
        self._vocabulary_lock = Lock()

    @property
    def vocab_size(self) -> int:
        """The width of a row of logits (V)."""
        return self.model.vocab_size

    @property
    def kv_layout(self) -> KVLayout:
        """Geometry of the KV caches."""
        return self.model.kv_layout

    @property
    def prefix_cache(self) -> PrefixCache:
        """Keys and values of earlier texts, for prompts that begin alike; see :class:`PrefixCache`.

        Setting one with entries of another model raises ShapeError.
        """
        return self._prefix_cache

    @prefix_cache.setter
    def prefix_cache(self, prefix_cache: PrefixCache) -> None:
        instance("prefix_cache", prefix_cache, PrefixCache).bind(*self.model.origins)
        self._prefix_cache = prefix_cache

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokens as structured output needs them; made at its first use."""
        with importing:  # few texts have a grammar
            from .structured.vocabulary import Vocabulary

        with self._vocabulary_lock:  # two would take seconds and memory twice
            if self._vocabulary is None:
                self._vocabulary = Vocabulary(self.tokenizer, self.eos_ids, self.vocab_size)
            return self._vocabulary

    @property
    def traced(self) -> bool:
        """Whether a trace of this model is open in the current context."""
        return bool(traces_of(self.model))

    def forward(self, batch: Sequence[Input], want: Want = ALL_LOGITS) -> tuple[Any, float]:
        """Run :meth:`pyml_nn.Model.forward`; its results and the milliseconds that it took.

        Logs the lines about the run that the log levels ask for.
        """
        start = time.perf_counter()
        if not logs.wants_timings():
            results = self.model.forward(batch, want)
            return results, (time.perf_counter() - start) * 1e3
        with self.model.trace() as trace:
            results = self.model.forward(batch, want)
        ms = (time.perf_counter() - start) * 1e3
        logs.log_trace(trace)
        return results, ms

    def cache_length(self, max_length: int | None) -> int:
        """Positions of a new cache: ``max_length``, or the whole context for None.

        Raises:
            ArgumentError: not a whole number in 1 .. :attr:`context_length`.
        """
        if max_length is None:
            return self.context_length
        length = whole("max_length", max_length)
        if not 1 <= length <= self.context_length:
            raise ArgumentError(
                f"must be in 1 .. {self.context_length} (the context), got {quoted(length)}", "max_length"
            )
        return length

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters that texts may choose."""
        return self.model.adapters

    def check_adapter(self, adapter: str | None) -> None:
        """Check the name of an adapter; None is no adapter.

        Raises:
            ArgumentError: the model was not loaded with it.
        """
        if adapter_name(adapter) is not None and adapter not in self.adapters:
            known = ", ".join(self.adapters[:8]) + ", ..." * (len(self.adapters) > 8)
            expected = f"one of {known}" if known else "None, because the model was loaded without adapters"
            raise ArgumentError(f"must be {expected}, got {quoted(adapter)}", "adapter")

    def new_cache(self, max_length: int | None = None, adapter: str | None = None) -> KVCache:
        """An empty KV cache of at most ``max_length`` positions (None: the context); it takes memory as it grows.

        Sequences in it are computed with the adapter (None: without one).

        Raises:
            ArgumentError: ``max_length`` is out of range, or there is no such adapter.
        """
        self.check_adapter(adapter)
        return self.model.new_cache(self.cache_length(max_length), adapter)

    def cancel(self) -> None:
        """Make the model's runs in progress raise :class:`pyml_core.errors.Cancelled`; from any thread."""
        self.model.cancel()

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed

    def check_open(self) -> None:
        """Raise :class:`PymlError` once the engine is closed."""
        if self._closed:
            raise PymlError(f"model {self.name}: it is closed")

    def close(self) -> None:
        """Free the weights and everything that was kept. Runs in progress in other threads raise Cancelled."""
        self._closed = True
        self.model.close()
        self.prefix_cache.clear()
        self._vocabulary = None
        memory.give_back()


class HasEngine(Protocol):
    """A language model."""

    @property
    def engine(self) -> Engine:
        """The engine that generates for it."""
        ...


def engine_of(model: Engine | HasEngine, name: str) -> Engine:
    """The engine of a language model; an engine is returned as it is.

    Raises:
        ArgumentError: ``model`` is neither; ``name`` is the argument's.
    """
    engine = getattr(model, "engine", model)
    if not isinstance(engine, Engine):
        raise ArgumentError(f"must be a model that pyml_nlp.load has returned, got {quoted(model)}", name)
    return engine
