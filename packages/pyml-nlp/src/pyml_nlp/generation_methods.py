"""Texts and requests in, generated texts out: the methods of a language model that continue texts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pyml_core.locks import Lock, importing

from .arguments import Prompt, prompt_ids
from .engine import Engine
from .generation.batch import Batch, checked_requests
from .generation.generator import Generator
from .generation.iterator import Generation
from .generation.preparing import within_timeout
from .generation.request import Request
from .generation.scheduler import MAX_BATCH_SIZE
from .model_methods import ModelMethods
from .options.generation import GenerationOptions, options_of_call
from .values import flag

if TYPE_CHECKING:
    from typing import Unpack

    from pyml_nn import KVCache

    from .engine import HasEngine
    from .generation.completion import Completion
    from .generation.server import Server
    from .generation.text_stream import TextStream
    from .options.keywords import GenerationKeywords


class GenerationMethods(ModelMethods):
    """The methods of :class:`.LanguageModel` that continue texts.

    Args:
        engine: the engine that generates.
        generation_options: defaults of :meth:`generate`.
    """

    def __init__(self, engine: Engine, generation_options: GenerationOptions) -> None:
        super().__init__(engine)
        self._generation_options = generation_options
        self._server: Server | None = None
        self._server_lock = Lock()

    @property
    def generation_options(self) -> GenerationOptions:
        """The defaults of :meth:`generate` and the other methods: the model's own sampling, or the project's."""
        return self._generation_options

    def generate(
        self,
        prompt: Prompt,
        options: GenerationOptions | int | None = None,
        *,
        cache: KVCache | None = None,
        timeout: float | None = None,
        speculate: bool = True,
        draft_model: HasEngine | None = None,
        **changes: Unpack[GenerationKeywords],
    ) -> Generation:
        """Continue a text, token by token.

        Args:
            prompt: text, or the token ids as the model wants them (beginning-of-sequence token included).
            options: how to continue it; None: :attr:`generation_options`, the model's defaults; a number: these
                defaults with this ``max_tokens``.
            cache: continue after the sequence in this cache of the model, and add to it; None: a new cache.
            timeout: seconds after which the text ends with what has been generated. If the prompt has not been turned
                into tokens by then, it is an error.
            speculate: check several drafted tokens in one run where that saves time; the text is the same either way.
            draft_model: a smaller model of the same vocabulary, which drafts where the text does not repeat itself.
            changes: options that differ, as keywords: fields of :class:`GenerationOptions` (``max_tokens``, ``stop``)
                and of :class:`SamplingOptions` (``temperature``, ``top_k``, ``seed``), or a grammar (``schema``,
                ``regex``, ``grammar``). None means that an option is not given. ``temperature=0`` is greedy.

        Returns:
            An iterator of :class:`Step`, with ``text``, ``tokens`` and ``finish_reason`` so far.

        Raises:
            ContextOverflowError: the prompt does not fit the context. It is raised here, before any work.
            OutOfMemoryError: the keys and values would not fit in memory.
            GrammarError: a schema, expression or grammar that cannot be used.
            ShapeError: a cache of another model, type of keys and values or CPU level.
            Cancelled: the timeout passed before the prompt was turned into tokens.
            ArgumentError: an unknown option, or a value of the wrong type or out of its range.
            PymlError: an empty prompt.
        """
        options = self._options(options, changes)
        generator = Generator(self, timeout, speculate, draft_model)
        with generator.preparing():
            request = Request(prompt_ids(self.engine, "prompt", prompt), options)
        return Generation(generator, generator.start(request, cache))

    def generate_text(
        self,
        prompt: Prompt,
        options: GenerationOptions | int | None = None,
        *,
        cache: KVCache | None = None,
        timeout: float | None = None,
        speculate: bool = True,
        draft_model: HasEngine | None = None,
        **changes: Unpack[GenerationKeywords],
    ) -> str:
        """The continuation of a text, without the prompt. Arguments and errors are those of :meth:`generate`."""
        return self.generate(
            prompt, options, cache=cache, timeout=timeout, speculate=speculate, draft_model=draft_model, **changes
        ).read()

    @property
    def server(self) -> Server:
        """Generates submitted texts; ``server.max_batch_size`` is how many run at a time."""
        with importing:  # few programs submit texts
            from .generation.server import Server

        with self._server_lock:
            self._server = self._server or Server(self.engine)
            return self._server

    def submit(
        self,
        prompt: Prompt,
        options: GenerationOptions | int | None = None,
        *,
        cache: KVCache | None = None,
        timeout: float | None = None,
        speculate: bool = True,
        draft_model: HasEngine | None = None,
        client: str | None = None,
        priority: int = 0,
        queue_timeout: float | None = None,
        cache_salt: str = "",
        **changes: Unpack[GenerationKeywords],
    ) -> TextStream:
        """:meth:`generate` in the background: all submitted texts run together.

        The stream is read with ``for`` or, in a coroutine, with ``async for``; ``agenerate`` is the same method. The
        text joins the running ones between two of their steps. At most ``server.max_batch_size`` run at a time, fewer
        if memory is short. Texts of a higher ``priority`` get places first; among those of one priority it is the turn
        of the ``client`` for which the fewest tokens have been computed. A text that has no place after
        ``queue_timeout`` seconds ends with the reason ``"timeout"``. Texts of different ``cache_salt`` do not share the
        prefix cache. The other arguments and the errors are those of :meth:`generate`; they are checked here, at once.
        QueueFullError is raised beyond ``server.max_queue``.
        """
        options = self._options(options, changes)
        ids, timeout = within_timeout(timeout, lambda: prompt_ids(self.engine, "prompt", prompt))
        request = Request(ids, options)
        return self.server.submit(
            request,
            cache,
            timeout=timeout,
            speculate=speculate,
            draft_model=draft_model,
            client=client,
            priority=priority,
            queue_timeout=queue_timeout,
            cache_salt=cache_salt,
        )

    agenerate = submit

    def generate_batch(
        self,
        prompts: Iterable[Prompt | Request],
        options: GenerationOptions | int | None = None,
        *,
        timeout: float | None = None,
        speculate: bool = True,
        draft_model: HasEngine | None = None,
        max_batch_size: int = MAX_BATCH_SIZE,
        ordered: bool = True,
        **changes: Unpack[GenerationKeywords],
    ) -> Batch:
        """Continue many texts, several at a time; each text is the same as alone.

        Args:
            prompts: texts or token ids, to which the options apply, or requests with options of their own.
            options, changes: as for :meth:`generate`. With a ``seed`` every text is that of :meth:`generate` with this
                seed; without one each has a random seed.
            timeout: seconds after which every text ends with what has been generated.
            speculate, draft_model: as for :meth:`generate`.
            max_batch_size: maximum number of texts that run at a time; fewer if memory for their keys and values is
                short.
            ordered: give texts in the order of the prompts; False: as they end.

        Returns:
            An iterator of :class:`Completion`, whose ``sequence`` is the index of its prompt.

        Raises:
            ContextOverflowError: a prompt does not fit the context. The message names the prompt.
            ArgumentError: an unknown option, or a value of the wrong type or out of its range.
            PymlError: an empty prompt. All of these are raised here, before any work.
        """
        options = self._options(options, changes)
        generator = Generator(self, timeout, speculate, draft_model)
        requests = checked_requests(
            generator, prompts, lambda prompt: Request(prompt_ids(self.engine, "prompt", prompt), options)
        )
        return Batch(generator, requests, max_batch_size, self.prefill_chunk, flag("ordered", ordered))

    def generate_samples(
        self,
        prompt: Prompt,
        n: int,
        options: GenerationOptions | int | None = None,
        *,
        best_of: int | None = None,
        timeout: float | None = None,
        speculate: bool = True,
        draft_model: HasEngine | None = None,
        max_batch_size: int = MAX_BATCH_SIZE,
        **changes: Unpack[GenerationKeywords],
    ) -> list[Completion]:
        """Continue one prompt several times, side by side; the prompt is computed once.

        Args:
            prompt, options, changes: as for :meth:`generate`. All texts have one seed, and consecutive values of
                ``sample_index``, beginning with the given one.
            n: number of texts.
            best_of: generate this many, and return the ``n`` with the highest mean log probability of a token, the
                highest one first. None: ``n``, in the order of ``sample_index``.
            timeout, speculate, draft_model, max_batch_size: as for :meth:`generate_batch`.

        Raises:
            ArgumentError: ``n`` is not a whole number above 0, or ``best_of`` is less than ``n``; or as for
                :meth:`generate`. ContextOverflowError, PymlError: as for :meth:`generate`.
        """
        with importing:  # few programs use it
            from .generation.samples import best, sample_requests

        options = self._options(options, changes)
        ids, timeout = within_timeout(timeout, lambda: prompt_ids(self.engine, "prompt", prompt))
        requests = sample_requests(ids, options, n, best_of)
        completions = list(
            self.generate_batch(
                requests, timeout=timeout, speculate=speculate, draft_model=draft_model, max_batch_size=max_batch_size
            )
        )
        return completions if best_of is None else best(completions, n)

    def _options(self, options: GenerationOptions | int | None, changes: GenerationKeywords) -> GenerationOptions:
        return options_of_call(options, changes, self.generation_options)

    def _close_server(self) -> None:
        """End the submitted texts."""
        if self._server is not None:
            self._server.close()
