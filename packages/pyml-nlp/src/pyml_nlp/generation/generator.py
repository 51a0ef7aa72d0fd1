"""From token ids to text: prefill, then one decode step after another, for one text or several side by side.

``prefill`` runs a prompt and chooses the first token; every ``decode_step`` feeds each running text its last token
and chooses its next one. They are timed apart. The last token of a text is never fed, because nothing would read the
result.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from pyml_core.errors import Cancelled, PymlError
from pyml_nn.kv_cache import ContextOverflowError, KVCache

from .. import logs, memory
from ..sampling import F32Array, sample, top_logprobs
from .completion import CANCELLED, LENGTH, STOP, TIMEOUT, Completion, Step
from .request import Request

if TYPE_CHECKING:
    from ..language_model import LanguageModel


class Feed(NamedTuple):
    """What the model is asked about one text in one run.

    Attributes:
        completion: the text; its cache is advanced.
        ids: token ids that follow what the cache holds.
        positions: indices into ``ids`` whose logits are wanted; None: the last one.
    """

    completion: Completion
    ids: list[int]
    positions: list[int] | None = None


class Generator:
    """Generates texts with one language model.

    Args:
        lm: the language model.
        timeout: seconds from now after which every text ends, with what it has.

    Raises:
        PymlError: ``timeout`` not above 0.
    """

    def __init__(self, lm: LanguageModel, timeout: float | None = None) -> None:
        if timeout is not None and not timeout > 0:
            raise PymlError(f"timeout must be > 0.0, got {timeout:g}")
        self._lm = lm
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._cancelled = False
        self._n_started = 0
        self.running: list[Completion] = []

    def start(self, request: Request, cache: KVCache | None = None) -> Completion:
        """Prepare a text; nothing is computed.

        Args:
            request: what is wanted; without a seed where one is needed it gets a random one, logged at debug.
            cache: continue after what it holds; None: a new one, just large enough.

        Raises:
            ContextOverflowError: the prompt does not fit.
            OutOfMemoryError: the keys and values of the whole text would not.
        """
        limit = self.check(request.prompt, cache)
        held = 0 if cache is None else cache.length
        wanted = min(limit, held + len(request.prompt) + request.max_tokens)
        self._check_memory(wanted, 0 if cache is None else cache.nbytes)
        if cache is None:
            cache = self._lm.new_cache(wanted)
        request = request.seeded()
        if not request.sampling.greedy:
            logs.generator.debug("[sampling] seed=%d", request.sampling.seed)
        completion = Completion(self._n_started, request, cache, self._lm.tokenizer.stream_decoder())
        self._n_started += 1
        return completion

    def check(self, prompt: Sequence[int], cache: KVCache | None = None) -> int:
        """Most positions that the prompt and its text may take together.

        Raises:
            ContextOverflowError: the prompt alone takes more.
        """
        held = 0 if cache is None else cache.length
        limit = self._lm.context_length if cache is None else min(cache.max_length, self._lm.context_length)
        if held + len(prompt) > limit:
            after = f" after {held} in the cache" if held else ""
            raise ContextOverflowError(
                f"Sequence length exceeded: max={limit}, actual={held + len(prompt)} "
                f"(the context holds {limit} tokens, the prompt has {len(prompt)}{after})"
            )
        return limit

    def prefill(self, completion: Completion) -> Step | None:
        """Run the prompt and choose the first token.

        The text ends here without a token if the deadline passes (between chunks of the prompt), if it is cancelled,
        or if ``max_tokens`` is 0.
        """
        logits = None
        for chunk in self._chunks(completion.prompt):
            if self._interrupted([completion]):
                return None
            try:
                (logits,), ms = self._forward([Feed(completion, *chunk)])
            except Cancelled:
                self._end([completion], CANCELLED)
                return None
            completion.prefill_ms += ms
        logs.generator.debug("[perf] generator.prefill tokens=%d %.3fms", len(completion.prompt), completion.prefill_ms)
        if logits is None or completion.request.max_tokens == 0:
            completion.end(LENGTH)
            return None
        step = self._choose(completion, logits[-1], 0.0)
        completion.decode_ms += step.sample_ms
        if completion.finish_reason is None:
            self.running.append(completion)
        return step

    def decode_step(self) -> list[Step]:
        """Run one token of every running text together and choose their next ones; texts that end leave ``running``.

        Returns no step, with every text ended, if the deadline has passed or the generator is cancelled.
        """
        batch = self.running
        if self._interrupted(batch):
            return []
        try:
            results, model_ms = self._forward([Feed(completion, completion.tokens[-1:]) for completion in batch])
        except Cancelled:
            self._end(batch, CANCELLED)
            return []
        steps = []
        for completion, logits in zip(batch, results, strict=True):
            steps.append(self._choose(completion, logits[-1], model_ms))
        sample_ms = sum(step.sample_ms for step in steps)
        for completion in batch:
            completion.decode_ms += model_ms + sample_ms
        logs.generator.debug(
            "[perf] generator.decode_step token=%d model=%.3fms sample=%.3fms total=%.3fms",
            max(step.index for step in steps), model_ms, sample_ms, model_ms + sample_ms,
        )  # fmt: skip
        self.running = [completion for completion in batch if completion.finish_reason is None]
        return steps

    def run(self, completion: Completion) -> Iterator[Step]:
        """The steps of one text, from its prefill to its end."""
        step = self.prefill(completion)
        if step is not None:
            yield step
        while completion.finish_reason is None:
            yield from self.decode_step()

    def run_all(self, requests: Iterable[Request], together: int = 8) -> Iterator[Completion]:
        """Generate every text, up to ``together`` of them side by side; each is yielded when it ends.

        A text is the same whatever is generated beside it.
        """
        waiting = iter(requests)
        more = True
        while more or self.running:
            while more and len(self.running) < together:
                request = next(waiting, None)
                if request is None:
                    more = False
                    break
                completion = self.start(request)
                self.prefill(completion)
                if completion.finish_reason is not None:
                    yield completion
            batch = self.running
            if batch:
                self.decode_step()
                yield from (completion for completion in batch if completion.finish_reason is not None)

    def cancel(self) -> None:
        """End every text with what it has; from any thread or signal handler, also while the model runs."""
        self._cancelled = True
        self._lm.cancel()

    # ---- parts

    def _forward(self, feeds: Sequence[Feed]) -> tuple[list[F32Array], float]:
        """Logits of the wanted positions of every feed, and milliseconds. The model is asked here alone."""
        return self._lm.timed_forward([(feed.completion.cache, feed.ids, feed.positions) for feed in feeds])

    def _choose(self, completion: Completion, logits: F32Array, model_ms: float) -> Step:
        start = time.perf_counter()
        position, request = completion.cache.length, completion.request
        token = sample(logits, request.sampling, request.sample, position, completion.seen)
        logprob, top = None, None
        if request.logprobs is not None:
            logprob, top = top_logprobs(logits, token, request.logprobs)
        reason = None
        if token in self._lm.eos_ids:
            reason = STOP
        elif len(completion.tokens) + 1 >= request.max_tokens or position >= completion.cache.max_length:
            reason = LENGTH
        text = completion.take(token, reason)
        sample_ms = (time.perf_counter() - start) * 1e3
        index = len(completion.tokens) - 1
        return Step(token, text, index, position, completion.sequence, logprob, top, reason, model_ms, sample_ms)

    def _chunks(self, prompt: Sequence[int]) -> Iterator[tuple[list[int], list[int] | None]]:
        """(ids, positions that want logits), in chunks between which deadline and cancel are looked at.

        A prompt that is timed stays whole, so that each layer's parts are reported once; the model cuts it itself.
        """
        whole = self._deadline is None and logs.wants_timings()
        size = len(prompt) if whole else self._lm.prefill_chunk
        for start in range(0, len(prompt), size):
            last = start + size >= len(prompt)
            yield list(prompt[start : start + size]), None if last else []

    def _interrupted(self, completions: list[Completion]) -> bool:
        if self._cancelled:
            self._end(completions, CANCELLED)
            return True
        if self._deadline is not None and time.monotonic() >= self._deadline:
            self._end(completions, TIMEOUT)
            return True
        return False

    def _end(self, completions: list[Completion], reason: str) -> None:
        for completion in completions:
            completion.end(reason)
        self.running = [completion for completion in self.running if completion.finish_reason is None]

    def _check_memory(self, positions: int, held: int) -> None:
        """Count what the running texts will still take besides what this one needs."""
        layout = self._lm.kv_layout
        needed = max(0, layout.bytes_for(positions) - held)
        for other in self.running:
            needed += max(0, layout.bytes_for(other.cache.max_length) - other.cache.nbytes)
        memory.require(needed, f"a KV cache of {positions} positions")
