"""A model with its tokenizer: the object that :func:`pyml_nlp.load` returns."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pyml_core.errors import PymlError
from pyml_core.pickling import SharedByCopies

from .arguments import check_batch_options, prompt_ids, prompt_list
from .chat_methods import ChatMethods
from .engine import Engine
from .generation.asynchronous import AsyncGeneration
from .generation.batch import Batch
from .generation.generator import Generator
from .generation.iterator import Generation
from .generation.prefix_cache import PrefixCache
from .generation.request import Request
from .generation.scheduler import TOGETHER
from .pickling import Origin, reduce_model
from .sampling import Sampling
from .structured.grammar import one_grammar
from .values import flag

if TYPE_CHECKING:
    from pyml_nn import KVCache
    from pyml_nn.model import Model

    from .tokenizer import Tokenizer


class LanguageModel(ChatMethods, SharedByCopies):
    """Text in, text out (here); messages in, answers out (:class:`ChatMethods`); ids in, logits out
    (:class:`.ModelMethods`).

    Args:
        model, tokenizer, eos_ids, context_length, prefill_chunk, name, prefix_cache: see :class:`Engine`.

    Attributes:
        engine: the :class:`Engine` that does the work.
        origin: how it was loaded; None: it was not loaded from files.

    Several threads may use it, each with caches of its own: runs of the model take turns, and results are the same.
    It is a context manager that closes itself.

    It is pickled as the path and options that it was loaded with, and loaded again where it is unpickled, for
    multiprocessing; an error if the files are not the same any more. ``copy.copy`` and ``copy.deepcopy`` return the
    model itself.
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
        engine = Engine(model, tokenizer, eos_ids, context_length, prefill_chunk, name, prefix_cache)
        super().__init__(engine)
        self.origin: Origin | None = None

    def __repr__(self) -> str:
        return f"<LanguageModel {self.name}: {self.model.n_params / 1e6:.1f}M params, context {self.context_length}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return reduce_model(self.engine, self.origin)

    def generate(
        self,
        prompt: str | Sequence[int],
        max_tokens: int = 64,
        temperature: float = 0.0,
        *,
        top_k: int | None = None,
        top_p: float | None = None,
        repetition_penalty: float | None = None,
        seed: int | None = None,
        min_p: float | None = None,
        typical_p: float | None = None,
        frequency_penalty: float | None = None,
        presence_penalty: float | None = None,
        logit_bias: Mapping[int, float] | None = None,
        order: Sequence[str] | None = None,
        logprobs: int | None = None,
        stop: str | Sequence[str] = (),
        stop_ids: Collection[int] = (),
        include_stop: bool = False,
        schema: Mapping[str, Any] | str | None = None,
        regex: str | None = None,
        grammar: str | None = None,
        overflow: str = "error",
        keep: int | None = None,
        timeout: float | None = None,
        cache: KVCache | None = None,
        speculate: bool = True,
        draft_model: LanguageModel | None = None,
    ) -> Generation:
        """Continue a text, token by token.

        Args:
            prompt: text, or the token ids as the model wants them (beginning-of-sequence token included).
            max_tokens: most tokens to generate; an end-of-sequence token counts.
            temperature: 0 takes the most probable token each time; higher is more random.
            top_k, top_p, min_p, typical_p: which tokens are in play; see :class:`Sampling`.
            repetition_penalty, frequency_penalty, presence_penalty, logit_bias: change what is probable; see there.
            order: of these rules; see there.
            seed: the same seed gives the same text; None: a random one.
            logprobs: report each token's log probability and those of so many most probable tokens; None: neither.
            stop: strings that end the text, which ends before them; a stream never shows a part of one.
            stop_ids: token ids that end the text, beside the end-of-sequence tokens.
            include_stop: end the text after the stop string instead.
            schema, regex, grammar: a JSON schema, a regular expression or a Lark grammar that the text has to match;
                see :mod:`.structured`. With ``finish_reason`` ``"length"`` the text is the beginning of one that does.
            overflow: at the end of the context: ``"error"`` refuses a prompt that does not fit and ends a text there,
                ``"roll"`` forgets the oldest half and goes on; see :mod:`pyml_nlp.generation.rolling`.
            keep: tokens at the beginning that are not forgotten then; None: a beginning-of-sequence token.
            timeout: seconds after which the text ends with what it has; if the prompt is not even in tokens by then, it
                is an error.
            cache: continue after what this cache of the model holds, and add to it; None: a new one.
            speculate: check several drafted tokens in one run where that pays; the text is the same either way.
            draft_model: a smaller model of the same vocabulary, which drafts where the text does not repeat itself.

        Returns:
            An iterator of :class:`Step`, with ``text``, ``tokens`` and ``finish_reason`` so far.

        Raises:
            ContextOverflowError: the prompt does not fit the context. It is raised here, before any work.
            OutOfMemoryError: the keys and values would not fit in memory.
            GrammarError: a schema, expression or grammar that cannot be used.
            ShapeError: a cache of another model, type of keys and values or CPU level.
            Cancelled: the timeout has passed before the prompt was in tokens.
            PymlError: an empty prompt or a value out of its range.
        """
        generator = Generator(self, timeout, speculate, draft_model)
        with generator.preparing():
            request = self._request(
                prompt, max_tokens,
                temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, typical_p=typical_p,
                repetition_penalty=repetition_penalty, frequency_penalty=frequency_penalty,
                presence_penalty=presence_penalty, logit_bias=logit_bias, order=order, seed=seed, logprobs=logprobs,
                stop=stop, stop_ids=stop_ids, include_stop=include_stop,
                schema=schema, regex=regex, grammar=grammar, overflow=overflow, keep=keep,
            )  # fmt: skip
        return Generation(generator, generator.start(request, cache))

    def agenerate(self, prompt: str | Sequence[int], max_tokens: int = 64, **options: Any) -> AsyncGeneration:
        """:meth:`generate` for asyncio: ``async for step in lm.agenerate(...)``, while other coroutines go on.

        Cancelling the task stops the model within one layer's time. Prompt and options are checked here, at once.
        """
        return AsyncGeneration(self.generate(prompt, max_tokens, **options))

    def generate_batch(
        self,
        prompts: Iterable[str | Sequence[int] | Request],
        max_tokens: int = 64,
        temperature: float = 0.0,
        *,
        timeout: float | None = None,
        speculate: bool = True,
        draft_model: LanguageModel | None = None,
        together: int = TOGETHER,
        ordered: bool = True,
        **options: Any,
    ) -> Batch:
        """Continue many texts, several side by side; each is the same as alone.

        Args:
            prompts: texts or token ids, to which the options apply, or whole requests of their own.
            max_tokens, temperature, speculate, draft_model: as for :meth:`generate`.
            timeout: seconds after which every text ends with what it has.
            together: most texts side by side; fewer where memory for their keys and values is short.
            ordered: give texts in the order of the prompts; False: as they end.
            options: as for :meth:`generate`. With a ``seed`` every text is that of :meth:`generate` with this seed;
                without one each has a random one of its own.

        Returns:
            An iterator of :class:`Completion`, whose ``sequence`` is the number of its prompt.

        Raises:
            ContextOverflowError: a prompt does not fit the context. It is raised here, before any work, and names it.
            PymlError: an empty prompt or a value out of its range.
        """
        check_batch_options(options)
        generator = Generator(self, timeout, speculate, draft_model)
        requests = []
        for index, prompt in enumerate(prompt_list(prompts)):
            try:
                if not isinstance(prompt, Request):
                    with generator.preparing():
                        prompt = self._request(prompt, max_tokens, temperature=temperature, **options)
                generator.check(prompt)
            except PymlError as error:
                raise type(error)(f"prompt {index}: {error}") from None
            requests.append(prompt)
        return Batch(generator, requests, together, self.prefill_chunk, flag("ordered", ordered))

    def _request(
        self,
        prompt: str | Sequence[int],
        max_tokens: int,
        *,
        schema: Mapping[str, Any] | str | None = None,
        regex: str | None = None,
        grammar: str | None = None,
        **options: Any,
    ) -> Request:
        """A request with the options of :meth:`generate`."""
        rules = {name: options.pop(name) for name in list(options) if name in Sampling.__dataclass_fields__}
        what = one_grammar(schema, regex, grammar)
        return Request(
            prompt_ids(self.engine, "prompt", prompt), max_tokens, Sampling(**rules), grammar=what, **options
        )

    def prefill(self, prompt: str | Sequence[int]) -> KVCache:
        """The keys and values of a prompt, to be saved or continued; later prompts that begin alike reuse them too.

        Raises:
            ContextOverflowError, OutOfMemoryError, PymlError: as of :meth:`generate`.
        """
        generator = Generator(self)
        completion = generator.start(Request(prompt_ids(self.engine, "prompt", prompt), 0), self.new_cache())
        generator.prefill(completion)
        return completion.cache

    def generate_text(self, prompt: str | Sequence[int], max_tokens: int = 64, **options: Any) -> str:
        """The continuation of a text, without the prompt; options as for :meth:`generate`."""
        generation = self.generate(prompt, max_tokens, **options)
        for _ in generation:
            pass
        return generation.text

    # ---- the end

    def close(self) -> None:
        """Free the weights and everything that was kept; nothing can be generated any more.

        What other threads are generating ends with a :class:`PymlError`. Closing twice is no error.
        """
        self.close_chat()
        self.engine.close()

    def check_open(self) -> None:
        """Raise :class:`PymlError` once the model is closed."""
        self.engine.check_open()

    def __enter__(self) -> LanguageModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
