"""A model with its tokenizer: the object that :func:`pyml_nlp.load` returns.

Letters: V = vocabulary size.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

from pyml_core.errors import PymlError
from pyml_core.locks import Lock, importing
from pyml_core.pickling import SharedByCopies
from pyml_core.want import ALL_LOGITS, AllLogits, Greedy, Top, Want
from pyml_nn.trace import traces_of

from . import logs, memory
from .arguments import cache_length, check_batch_options, check_forward, indices, not_empty, prompt_ids, prompt_list
from .generation.asynchronous import AsyncGeneration
from .generation.batch import Batch
from .generation.generator import Generator
from .generation.iterator import Generation
from .generation.prefix_cache import PrefixCache
from .generation.preparing import within_timeout
from .generation.request import Request
from .generation.scheduler import TOGETHER
from .generation.speculation import Costs
from .pickling import Origin, reduce_model
from .sampling import Sampling
from .structured.grammar import one_grammar
from .values import flag

if TYPE_CHECKING:
    from pyml_core.kv_layout import KVLayout
    from pyml_core.want import GreedyToken, TopLogits
    from pyml_nn import KVCache, Trace
    from pyml_nn.batching import Input
    from pyml_nn.model import Model

    from .chat import ChatTemplate, Conversation, Message, Messages
    from .evaluation import TokenScore
    from .structured.vocabulary import Vocabulary
    from .tokenizer import Tokenizer

F32Array = npt.NDArray[np.float32]


class LanguageModel(SharedByCopies):
    """Text in, text out; or ids in, logits out.

    Args:
        model: ids to logits.
        tokenizer: text to ids and back.
        eos_ids: tokens that end a text.
        context_length: most positions of a sequence; None: as many as the model was made for.
        prefill_chunk: most tokens of a prompt that run at once.
        name: what it was loaded from.
        prefix_cache: where keys and values are kept for later prompts; None: one of the default size.

    Attributes:
        model: the :class:`pyml_nn.Model`.
        tokenizer: see :mod:`pyml_nlp.tokenizer`.
        eos_ids: tokens that end a text.
        context_length: most positions of a sequence.
        prefill_chunk: most tokens of a prompt that run at once.
        name: what it was loaded from.
        origin: how it was loaded; None: it was not loaded from files.
        costs: what runs of several tokens were seen to cost; see :class:`Costs`.

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
        self.model = model
        self.tokenizer = tokenizer
        self.eos_ids = frozenset(eos_ids)
        self.context_length = model.context_length if context_length is None else context_length
        self.prefill_chunk = prefill_chunk
        self.name = name
        self._closed = False
        self.origin: Origin | None = None
        self.costs = Costs()
        self.prefix_cache = PrefixCache() if prefix_cache is None else prefix_cache
        self._chat_template: ChatTemplate | None = None
        self._vocabulary: Vocabulary | None = None
        self._vocabulary_lock = Lock()

    def __repr__(self) -> str:
        return f"<LanguageModel {self.name}: {self.model.n_params / 1e6:.1f}M params, context {self.context_length}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return reduce_model(self)

    # ---- facts

    @property
    def config(self) -> Any:
        """The architecture's configuration (a frozen dataclass)."""
        return self.model.config

    @property
    def vocab_size(self) -> int:
        """The width of a row of logits (V)."""
        return self.model.vocab_size

    @property
    def prefix_cache(self) -> PrefixCache:
        """Keys and values of earlier texts, for prompts that begin alike; see :class:`PrefixCache`.

        Setting one that keeps what another model has computed is a ShapeError.
        """
        return self._prefix_cache

    @prefix_cache.setter
    def prefix_cache(self, prefix_cache: PrefixCache) -> None:
        prefix_cache.bind(self.model.cache_origin)
        self._prefix_cache = prefix_cache

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokens as structured output needs them; made when it is first used."""
        with importing:
            from .structured.vocabulary import Vocabulary

        with self._vocabulary_lock:  # two would take seconds and memory twice
            if self._vocabulary is None:
                self._vocabulary = Vocabulary(self.tokenizer, self.eos_ids, self.vocab_size)
            return self._vocabulary

    @property
    def kv_layout(self) -> KVLayout:
        """Geometry of the KV caches."""
        return self.model.kv_layout

    # ---- text

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
        return Request(prompt_ids(self, "prompt", prompt), max_tokens, Sampling(**rules), grammar=what, **options)

    def prefill(self, prompt: str | Sequence[int]) -> KVCache:
        """The keys and values of a prompt, to be saved or continued; later prompts that begin alike reuse them too.

        Raises:
            ContextOverflowError, OutOfMemoryError, PymlError: as of :meth:`generate`.
        """
        generator = Generator(self)
        completion = generator.start(Request(prompt_ids(self, "prompt", prompt), 0), self.new_cache())
        generator.prefill(completion)
        return completion.cache

    def generate_text(self, prompt: str | Sequence[int], max_tokens: int = 64, **options: Any) -> str:
        """The continuation of a text, without the prompt; options as for :meth:`generate`."""
        generation = self.generate(prompt, max_tokens, **options)
        for _ in generation:
            pass
        return generation.text

    def ids(self, text: str | Sequence[int]) -> list[int]:
        """Token ids of a text, with what the model wants around them, once; ids are returned as they are."""
        return prompt_ids(self, "text", text)

    # ---- chat

    @property
    def chat_template(self) -> ChatTemplate:
        """The model's chat template; ChatTemplateError if it has none."""
        if self._chat_template is None:
            with importing:
                from .chat import ChatTemplate

            self._chat_template = ChatTemplate(self.tokenizer, self.name)
        return self._chat_template

    def chat(
        self,
        messages: Messages,
        max_tokens: int = 256,
        *,
        tools: Sequence[Message] | None = None,
        documents: Sequence[Message] | None = None,
        template: str | None = None,
        continue_final_message: bool = False,
        variables: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Generation:
        """Answer messages, which the model's own template makes a prompt of.

        Args:
            messages: mappings with ``role`` and ``content``, or a text, which is what a user says.
            max_tokens: most tokens of the answer.
            tools, documents, template, continue_final_message, variables: see :meth:`chat_ids`.
            options: as of :meth:`generate`.

        Returns:
            The answer, to be read step by step, as of :meth:`generate`. It ends with the model's turn.

        Raises:
            ChatTemplateError: the model has no template, or as of :meth:`chat_ids`.
            PymlError: as of :meth:`generate`.
        """
        ids = within_timeout(
            options,
            lambda: self.chat_ids(
                messages,
                tools=tools,
                documents=documents,
                template=template,
                continue_final_message=continue_final_message,
                variables=variables,
            ),
        )
        return self.generate(ids, max_tokens, **options)

    def conversation(
        self,
        system: str | None = None,
        *,
        tools: Sequence[Message] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> Conversation:
        """A chat of several turns, each of which runs only what is new; see :class:`pyml_nlp.chat.Conversation`."""
        with importing:
            from .chat import Conversation

        self.chat_template.start()
        return Conversation(self, system, tools, variables)

    def apply_chat_template(
        self,
        messages: Messages,
        *,
        tools: Sequence[Message] | None = None,
        documents: Sequence[Message] | None = None,
        template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt that the model's chat template makes of messages, as text: what transformers' method gives.

        Arguments and errors as of :meth:`chat_ids`.
        """
        return self.chat_template.render(
            messages,
            tools=tools,
            documents=documents,
            name=template,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            variables=variables,
        )

    def chat_ids(
        self,
        messages: Messages,
        *,
        tools: Sequence[Message] | None = None,
        documents: Sequence[Message] | None = None,
        template: str | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """The token ids of that prompt, in which the text of a message is never a control token.

        Args:
            messages: mappings with ``role`` and ``content``, or a text, which is what a user says.
            tools: JSON schemas of functions that the model may call.
            documents: mappings with ``title`` and ``text``, for templates that know them.
            template: the name of one of several templates; None: ``tool_use`` if there are tools and such a
                template, else ``default``.
            add_generation_prompt: end with the beginning of an answer.
            continue_final_message: end within the last message, for the model to continue it; there is no generation
                prompt then.
            variables: what else the template is to know, such as ``{"enable_thinking": False}``.

        Raises:
            ChatTemplateError: the template refuses the messages, with its own words; it is malformed or takes more
                time or memory than a template may; messages are no messages.
        """
        return self.chat_template.ids(
            messages,
            tools=tools,
            documents=documents,
            name=template,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            variables=variables,
        )

    # ---- logits

    def logits(self, text: str | Sequence[int], positions: Sequence[int] | None = None) -> F32Array:
        """Logits after each position.

        Args:
            text: text or token ids.
            positions: indices into the ids, of which negative ones count from the end; None: all.

        Returns:
            float32 (len(positions), V).

        Raises:
            ContextOverflowError: more ids than the context holds.
            OutOfMemoryError: the result and the keys and values would not fit in memory.
            PymlError: no ids, or ids or positions out of range.
        """
        ids = not_empty("text", self.ids(text))
        wanted = indices(positions, len(ids))
        needed = 4 * len(wanted) * self.vocab_size + self.kv_layout.bytes_for(len(ids))
        memory.require(needed, f"logits of {len(wanted)} positions")
        return self.forward([(self.new_cache(), ids, wanted)])[0]

    def score(self, text: str | Sequence[int], top: int = 0) -> list[TokenScore]:
        """How probable each token of a text was after those before it: the log probabilities of a prompt.

        Args:
            text: text or token ids.
            top: report so many of the most probable tokens beside each.

        Returns:
            A :class:`.TokenScore` a token. They are the model's own: before temperature, penalties and truncation.

        Raises:
            ContextOverflowError: more ids than the context holds.
            PymlError: no ids, or ids or ``top`` out of range.
        """
        with importing:
            from .evaluation import score

        return score(self, self.ids(text), top)

    @overload
    def forward(self, batch: Sequence[Input], want: AllLogits = ...) -> list[F32Array]: ...
    @overload
    def forward(self, batch: Sequence[Input], want: Top) -> list[list[TopLogits]]: ...
    @overload
    def forward(self, batch: Sequence[Input], want: Greedy) -> list[list[GreedyToken]]: ...
    def forward(self, batch: Sequence[Input], want: Want = ALL_LOGITS) -> Any:
        """Continue several sequences at once: ``(cache, ids, positions that want logits, or None for the last)`` each.

        Returns float32 (len(positions), V) for each sequence, or what ``want`` asks for, and advances the caches. See
        :meth:`pyml_nn.Model.forward`.
        """
        check_forward(batch, want)
        return self.timed_forward(batch, want)[0]

    def timed_forward(self, batch: Sequence[Input], want: Want = ALL_LOGITS) -> tuple[Any, float]:
        """:meth:`forward` and its milliseconds; logs the lines about it that the log levels ask for."""
        start = time.perf_counter()
        if not logs.wants_timings():
            results = self.model.forward(batch, want)
            return results, (time.perf_counter() - start) * 1e3
        with self.model.trace() as trace:
            results = self.model.forward(batch, want)
        ms = (time.perf_counter() - start) * 1e3
        logs.log_trace(trace)
        return results, ms

    # ---- caches

    def new_cache(self, max_length: int | None = None) -> KVCache:
        """An empty KV cache of at most ``max_length`` positions (None: the context); it takes memory as it grows."""
        return self.model.new_cache(self._length(max_length))

    def load_cache(self, path: str | os.PathLike[str], max_length: int | None = None) -> KVCache:
        """A KV cache that ``cache.save(path)`` wrote with this model, loaded in the same way.

        Raises:
            CacheFileError: there is no such file, or it is damaged or of another model, type or CPU level.
        """
        return self.model.load_cache(path, self._length(max_length))

    def _length(self, max_length: int | None) -> int:
        return self.context_length if max_length is None else cache_length(max_length, self.context_length)

    # ---- watching, stopping, closing

    def trace(self, *names: str, tensors: str | Iterable[str] = (), max_bytes: int | None = None) -> Trace:
        """Record what the model does: ``with lm.trace() as t: ...``, then ``t.events``, ``t.summary()``, ``t.save()``.

        Args:
            names: patterns of the operations to keep the times of (``layers.*.attention.*``); none: all.
            tensors: patterns of the tensors to keep (``layers.*``, ``layers.0.attention.probabilities``), for
                ``t.tensor(name)``; none by default.
            max_bytes: most bytes of tensors to keep; None: as many as are free.
        """
        return self.model.trace(*names, tensors=tensors, max_bytes=max_bytes)

    @property
    def traced(self) -> bool:
        """Whether a trace of this model is open in the current context."""
        return bool(traces_of(self.model))

    def head(self, hidden: npt.ArrayLike) -> F32Array:
        """The final norm and the head applied to hidden states of any layer: (P, hidden size) to logits (P, V)."""
        return self.model.head(hidden)

    def cancel(self) -> None:
        """Make the model's run in progress, if any, raise :class:`pyml_core.errors.Cancelled`; from any thread."""
        self.model.cancel()

    def close(self) -> None:
        """Let go of the weights and of all that was kept; nothing can be generated any more.

        What is being generated in other threads ends with a :class:`PymlError`. Closing twice is no error.
        """
        self._closed = True
        self.model.close()
        if self._chat_template is not None:
            self._chat_template.close()
        self.prefix_cache.clear()
        self._vocabulary = None
        memory.give_back()

    def check_open(self) -> None:
        """Raise :class:`PymlError` once the model is closed."""
        if self._closed:
            raise PymlError(f"model {self.name}: it is closed")

    def __enter__(self) -> LanguageModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
