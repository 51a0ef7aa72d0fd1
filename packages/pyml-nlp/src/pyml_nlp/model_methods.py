"""Ids in, logits out: the methods of a language model that choose no tokens.

Letters: V = vocabulary size.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

from pyml_core.locks import importing
from pyml_core.want import ALL_LOGITS, AllLogits, Sample, Top, Want

from . import memory
from .arguments import Prompt, check_forward, hidden_rows, indices, not_empty, prompt_ids
from .engine import Engine
from .generation.generator import Generator
from .generation.prefix_cache import PrefixCache
from .generation.request import Request
from .options.generation import GenerationOptions
from .values import text

if TYPE_CHECKING:
    from pyml_core.kv_layout import KVLayout
    from pyml_core.want import SampledToken, TopLogits
    from pyml_nn import KVCache, Trace
    from pyml_nn.batching import Input
    from pyml_nn.config import Dimensions

    from .evaluation import TokenScore
    from .structured.vocabulary import Vocabulary

F32Array = npt.NDArray[np.float32]


class ModelMethods:
    """The methods of :class:`.LanguageModel` that run its model, and the facts about it.

    Args:
        engine: runs the model.

    Attributes:
        engine: as given.
        model, tokenizer, eos_ids, context_length, prefill_chunk, costs: see :class:`Engine`.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.model = engine.model
        self.tokenizer = engine.tokenizer
        self.eos_ids = engine.eos_ids
        self.context_length = engine.context_length
        self.prefill_chunk = engine.prefill_chunk
        self.costs = engine.costs

    # ---- facts

    @property
    def name(self) -> str:
        """The model's name in messages: the path or hub id that it was loaded from."""
        return self.engine.name

    @name.setter
    def name(self, name: str) -> None:
        self.engine.name = text("name", name)

    @property
    def config(self) -> Dimensions:
        """The architecture's configuration, a frozen dataclass: these fields and the architecture's own."""
        config: Dimensions = self.model.config
        return config

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
        """Keys and values of earlier texts, for prompts that begin alike; see :attr:`Engine.prefix_cache`."""
        return self.engine.prefix_cache

    @prefix_cache.setter
    def prefix_cache(self, prefix_cache: PrefixCache) -> None:
        self.engine.prefix_cache = prefix_cache

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokens as structured output needs them; made at its first use."""
        return self.engine.vocabulary

    @property
    def traced(self) -> bool:
        """Whether a trace of this model is open in the current context."""
        return self.engine.traced

    # ---- logits

    def ids(self, text: Prompt) -> list[int]:
        """Return the token ids of a text, with the model's special tokens around it; ids are returned unchanged."""
        return prompt_ids(self.engine, "text", text)

    def logits(self, text: Prompt, positions: Sequence[int] | None = None, adapter: str | None = None) -> F32Array:
        """Logits after each position.

        Args:
            text: text or token ids.
            positions: indices into the ids, of which negative ones count from the end; None: all.
            adapter: name of the adapter to compute with; None: none.

        Returns:
            float32 (len(positions), V).

        Raises:
            ContextOverflowError: more ids than the context holds.
            OutOfMemoryError: the result and the keys and values would not fit in memory.
            PymlError: no ids, or ids or positions out of range.
        """
        ids = not_empty("text", self.ids(text))
        wanted = indices("positions", positions, len(ids))
        needed = 4 * len(wanted) * self.vocab_size + self.kv_layout.bytes_for(len(ids))
        memory.require(needed, f"logits of {len(wanted)} positions")
        return self.forward([(self.new_cache(adapter=adapter), ids, wanted)])[0]

    def hidden_states(self, text: Prompt, layers: Sequence[int] | None = None) -> F32Array:
        """Outputs of the layers at every position, before the final norm; the head is not computed.

        Args:
            text: text or token ids.
            layers: indices of layers, of which negative ones count from the end; None: all.

        Returns:
            float32 (len(layers), number of ids, hidden size). :meth:`head` makes logits of a layer's: those of the last
            one are the model's own, bit for bit.

        Raises:
            ContextOverflowError: more ids than the context holds.
            OutOfMemoryError: the result and the keys and values would not fit in memory.
            ArgumentError: a layer that the model does not have.
            PymlError: no ids, or ids out of range.
        """
        ids = not_empty("text", self.ids(text))
        names = [f"layers.{layer}" for layer in indices("layers", layers, self.config.n_layers)]
        needed = 8 * len(names) * len(ids) * self.config.hidden_size + self.kv_layout.bytes_for(len(ids))
        memory.require(needed, f"hidden states of {len(names)} layers and {len(ids)} positions")
        if not names:
            return np.empty((0, len(ids), self.config.hidden_size), np.float32)
        with self.trace("forward", tensors=names) as trace:
            self.forward([(self.new_cache(), ids, [])])
        return np.stack([trace.tensor(name) for name in names])

    def score(self, text: Prompt, top: int = 0) -> list[TokenScore]:
        """Return the log probability of each token of a text, given the tokens before it.

        Args:
            text: text or token ids.
            top: number of most probable tokens to report at each position.

        Returns:
            A :class:`.TokenScore` for each token. Its probabilities are the model's own, before temperature, penalties
            and truncation.

        Raises:
            ContextOverflowError: more ids than the context holds.
            PymlError: no ids, or ids or ``top`` out of range.
        """
        with importing:  # few programs score texts
            from .evaluation import score

        return score(self, self.ids(text), top)

    @overload
    def forward(self, batch: Sequence[Input], want: AllLogits = ...) -> list[F32Array]: ...
    @overload
    def forward(self, batch: Sequence[Input], want: Top) -> list[list[TopLogits]]: ...
    @overload
    def forward(self, batch: Sequence[Input], want: Sample) -> list[list[SampledToken]]: ...
    def forward(self, batch: Sequence[Input], want: Want = ALL_LOGITS) -> Any:
        """Continue several sequences at once: ``(cache, ids, positions that want logits, or None for the last)`` each.

        Returns float32 (len(positions), V) for each sequence, or the results that ``want`` requests, and advances the
        caches. See :meth:`pyml_nn.Model.forward`.
        """
        check_forward(batch, want)
        return self.engine.forward(batch, want)[0]

    # ---- caches

    def prefill(self, prompt: Prompt, adapter: str | None = None) -> KVCache:
        """The keys and values of a prompt, to be saved or continued; later prompts that begin alike reuse them too.

        They are computed with the adapter of this name (None: without one).

        Raises:
            ContextOverflowError, OutOfMemoryError, PymlError: as of :meth:`generate`.
        """
        generator = Generator(self.engine)
        completion = generator.start(
            Request(prompt_ids(self.engine, "prompt", prompt), GenerationOptions(max_tokens=0, adapter=adapter)),
            self.new_cache(adapter=adapter),
        )
        generator.prefill(completion)
        return completion.cache

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters that the model was loaded with; ``generate(..., adapter=name)`` chooses one."""
        return self.engine.adapters

    def new_cache(self, max_length: int | None = None, adapter: str | None = None) -> KVCache:
        """An empty KV cache of at most ``max_length`` positions (None: the context); it takes memory as it grows.

        :meth:`forward` computes its sequence with the adapter of this name (None: without one).

        Raises:
            ArgumentError: ``max_length`` is out of range, or there is no such adapter.
        """
        return self.engine.new_cache(max_length, adapter)

    def load_cache(
        self, path: str | os.PathLike[str], max_length: int | None = None, adapter: str | None = None
    ) -> KVCache:
        """A KV cache that ``cache.save(path)`` wrote with this model and adapter, loaded in the same way.

        Raises:
            CacheFileError: there is no such file, or it is damaged or of another model, type or CPU level.
        """
        self.engine.check_adapter(adapter)
        return self.model.load_cache(path, self.engine.cache_length(max_length), adapter)

    # ---- watching, stopping

    def trace(self, *names: str, tensors: str | Iterable[str] = (), max_bytes: int | None = None) -> Trace:
        """Record operations: ``with lm.trace() as t: ...``, then ``t.events``, ``t.summary()``, ``t.save()``.

        Args:
            names: patterns of the operations to keep the times of (``layers.*.attention.*``); none: all.
            tensors: patterns of the tensors to keep (``layers.*``, ``layers.0.attention.probabilities``), for
                ``t.tensor(name)``; none by default.
            max_bytes: maximum size of the kept tensors in bytes; None: the free memory.
        """
        return self.model.trace(*names, tensors=tensors, max_bytes=max_bytes)

    def head(self, hidden: npt.ArrayLike) -> F32Array:
        """The final norm and the head applied to hidden states of any layer: (P, hidden size) to logits (P, V).

        Raises:
            ArgumentError: no numbers, no rows, or rows of another width.
        """
        return self.model.head(hidden_rows(hidden, self.config.hidden_size))

    def cancel(self) -> None:
        """Make the model's run in progress, if any, raise :class:`pyml_core.errors.Cancelled`; from any thread."""
        self.engine.cancel()
