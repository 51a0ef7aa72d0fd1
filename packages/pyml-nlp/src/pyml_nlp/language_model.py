"""A model with its tokenizer: the object that :func:`pyml_nlp.load` returns."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pyml_core.locks import importing
from pyml_core.pickling import SharedByCopies

from .chat_methods import ChatMethods
from .engine import Engine
from .generation.prefix_cache import PrefixCache
from .options.generation import GenerationOptions
from .pickling import Origin, reduce_model

if TYPE_CHECKING:
    from pyml_nn.model import Model

    from .openai import OpenAI
    from .tokenizer import Tokenizer


class LanguageModel(ChatMethods, SharedByCopies):
    """Text in, text out: the methods of :class:`.GenerationMethods`, for chats of :class:`.ChatMethods`, and for logits
    of :class:`.ModelMethods`.

    Args:
        model, tokenizer, eos_ids, context_length, prefill_chunk, name, prefix_cache: see :class:`Engine`.
        generation_options: defaults of :meth:`generate`; None: :class:`GenerationOptions` without arguments.

    Attributes:
        engine: the :class:`Engine` that runs the model.
        origin: how it was loaded; None: it was not loaded from files.

    Several threads may use it, each with caches of its own: runs of the model take turns, and results are the same.
    It is a context manager that closes itself.

    It is pickled as the path and options that it was loaded with, and loaded again where it is unpickled, for
    multiprocessing; an error if the files have changed. ``copy.copy`` and ``copy.deepcopy`` return the model itself.
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
        generation_options: GenerationOptions | None = None,
    ) -> None:
        engine = Engine(model, tokenizer, eos_ids, context_length, prefill_chunk, name, prefix_cache)
        super().__init__(engine, generation_options or GenerationOptions())
        self.origin: Origin | None = None

    def __repr__(self) -> str:
        if self.engine.closed:
            return f"<LanguageModel {self.name}: closed>"
        return f"<LanguageModel {self.name}: {self.model.n_params / 1e6:.1f}M params, context {self.context_length}>"

    def _repr_html_(self) -> str:
        with importing:
            from pyml_core.notebook import html_table  # start-up: for notebooks alone

        rows = {
            "state": "closed" if self.engine.closed else "open",
            "parameters": f"{self.model.n_params / 1e6:.1f} million",
            "context": f"{self.context_length} positions",
            "keys and values": self.kv_layout.dtype,
            "tokenizer": f"{self.tokenizer.kind}, {self.tokenizer.vocab_size} tokens",
            "sampling": self.generation_options.sampling,
            "prefix cache": self.prefix_cache,
        }
        return html_table(f"LanguageModel {self.name}", rows)

    def __reduce__(self) -> tuple[Any, ...]:
        return reduce_model(self.engine, self.origin)

    @property
    def openai(self) -> OpenAI:
        """Requests and answers in the form of OpenAI's API, as dictionaries; see :class:`.OpenAI`."""
        with importing:  # few programs use it
            from .openai import OpenAI

        return OpenAI(self)

    # ---- the end

    def close(self) -> None:
        """Free the weights and everything that was kept; nothing can be generated any more.

        A text that another thread is generating ends with a :class:`PymlError`. A second call does nothing.
        """
        self.close_chat()
        self.engine.close()
        self._close_server()

    def check_open(self) -> None:
        """Raise :class:`PymlError` once the model is closed."""
        self.engine.check_open()

    def __enter__(self) -> LanguageModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
