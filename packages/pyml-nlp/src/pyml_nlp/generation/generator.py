"""From token ids to text: prefill, then one decode step after another, for one text or several side by side.

``prefill`` runs a prompt and chooses the first token; every ``decode_step`` feeds each running text its last token
and chooses its next one. They are timed apart. The last token of a text is never fed, because nothing would read the
result.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import numpy as np

from pyml_core.cancel import CancelToken
from pyml_core.errors import Cancelled, PymlError
from pyml_core.pickling import OfOneProcess
from pyml_core.want import ALL_LOGITS, MAX_TOP, Greedy, GreedyToken, Top, TopLogits
from pyml_nn import KVCache

from .. import logs
from ..engine import Engine, HasEngine, engine_of
from ..options import SHIFT
from ..sampling import F32Array, check_finite, sample, top_logprobs
from ..structured.grammar import Grammar
from ..structured.matcher import Matcher
from ..tokenizer.decoding import ByteDecoding
from ..values import flag, seconds
from .admission import check_memory, check_request, kept_tokens
from .completion import CANCELLED, LENGTH, STOP, TIMEOUT, Completion, Logits, Rows, Step, StreamDecoder
from .preparing import preparing
from .request import Request
from .speculator import Speculator


class Feed(NamedTuple):
    """What the model is asked about one text in one run.

    Attributes:
        completion: the text; its cache is advanced.
        ids: token ids that follow what the cache holds.
        positions: indices into ``ids`` whose logits are wanted; None: the last one.
        runs: of the model, in one call: one for all ids, or one for each.
    """

    completion: Completion
    ids: list[int]
    positions: list[int] | None = None
    runs: int = 1


class Generator(OfOneProcess, instead="make one with the model of the other process"):
    """Generates texts with one model.

    Args:
        engine: of the model; a language model stands for its own.
        timeout: seconds from now after which every text ends, with what it has.
        speculate: draft tokens and check several in a run where that pays; the texts are the same either way.
        draft_model: a smaller model that drafts where the text's own past does not.

    Raises:
        PymlError: ``timeout`` not above 0, or a draft model with another vocabulary.

    One thread at a time may use a generator, but for :meth:`cancel`; threads may have one each of the same model.
    """

    def __init__(
        self,
        engine: Engine | HasEngine,
        timeout: float | None = None,
        speculate: bool = True,
        draft_model: Engine | HasEngine | None = None,
    ) -> None:
        self._engine = engine_of(engine, "engine")
        draft = None if draft_model is None else engine_of(draft_model, "draft_model")
        self._speculator = Speculator(self._engine, flag("speculate", speculate), draft)
        self._token = CancelToken(seconds("timeout", timeout))
        self._started: list[Completion] = []  # and not ended
        self._n_started = 0
        self.running: list[Completion] = []

    def preparing(self) -> AbstractContextManager[None]:
        """A ``with`` block in which prompts are made, see :func:`.preparing.preparing`."""
        return preparing(self._token)

    def start(self, request: Request, cache: KVCache | None = None) -> Completion:
        """Prepare a text; nothing is computed.

        Args:
            request: what is wanted; without a seed where one is needed it gets a random one, logged at debug.
            cache: continue after what it holds; None: a new one, just large enough.

        Raises:
            ContextOverflowError: the prompt does not fit.
            OutOfMemoryError: the keys and values of the whole text would not.
            GrammarError: a grammar that cannot be used, or llguidance is not installed.
            ArgumentError, ShapeError: as of :meth:`check`.
            PymlError: the model is closed.
        """
        self._engine.check_open()
        limit = self.check(request, cache)
        held = 0 if cache is None else cache.length
        wanted = min(limit, held + len(request.prompt) + request.options.max_tokens)
        check_memory(self._engine, self._started, wanted, 0 if cache is None else cache.nbytes)
        given = cache is not None
        if cache is None:
            cache = self._engine.new_cache(wanted)
        request = request.seeded()
        options = request.options
        logs.generator.debug("[sampling] %s", options.sampling)
        decoder: StreamDecoder = self._engine.tokenizer.stream_decoder()
        matcher = None
        if options.grammar is not None:
            matcher = self._matcher(options.grammar)
            # The text is exactly the bytes that match: no space is taken from its beginning.
            decoder = ByteDecoding(self._engine.tokenizer.token_bytes)
        completion = Completion(self._n_started, request, cache, decoder, matcher)
        completion.cache_given = given
        completion.n_keep = kept_tokens(self._engine, request)
        self._n_started += 1
        self._started.append(completion)
        return completion

    def _matcher(self, grammar: Grammar) -> Matcher | None:
        """A matcher for a new text; None: it is to end before it begins."""
        try:
            with self._token:
                return self._engine.vocabulary.matcher(grammar)
        except Cancelled:
            return None

    def check(self, request: Request, cache: KVCache | None = None) -> int:
        """Most positions that the prompt and its text may take together.

        Raises:
            ContextOverflowError: the prompt alone takes more, and the context is not shifted.
            ArgumentError: a token that the model does not have, or something else than a cache.
            ShapeError: a cache of another origin.
            PymlError: a context shift would keep more than half of the context.
        """
        return check_request(self._engine, request, cache)

    def refused(self, request: Request, error: PymlError) -> Completion:
        """The text of a request that :meth:`start` has refused with this error, ended before it began."""
        completion = Completion(
            self._n_started, request, self._engine.new_cache(1), self._engine.tokenizer.stream_decoder()
        )
        self._n_started += 1
        completion.fail(error)
        return completion

    # ---- steps

    def begin(self, completion: Completion) -> None:
        """Take what the prefix cache has of a prompt: before the first :meth:`advance` of its text."""
        completion.shift_context()
        if completion.cache.length or self._engine.traced:  # a trace shows the whole prompt
            return
        kept = self._engine.prefix_cache.fork(completion.pending)
        if kept is not None:
            completion.cache.replace(kept)
            completion.reused = kept.length
            del completion.pending[: kept.length]

    def prefill(self, completion: Completion) -> Step | None:
        """Run the prompt and choose the first token.

        The text ends here without a token if the deadline passes, if it is cancelled, or if ``max_tokens`` is 0.
        """
        self.begin(completion)
        steps = self._run([], [(completion, len(completion.pending))])
        return steps[0] if steps else None

    def decode_step(self) -> list[Step]:
        """Run one token of every running text together and choose their next ones; texts that end leave ``running``.

        Returns no step, with every text ended, if the deadline has passed or the generator is cancelled.
        """
        return self.advance([])

    def advance(self, prompts: Sequence[tuple[Completion, int]]) -> list[Step]:
        """:meth:`decode_step` with so many more tokens of these prompts beside the running texts."""
        steps = self._go_ahead()
        return self._run(list(self.running), prompts) if steps is None else steps

    def run(self, completion: Completion) -> Iterator[Step]:
        """The steps of one text, from its prefill to its end; at last the error that ended it, if one did."""
        step = self.prefill(completion)
        if step is not None:
            yield step
        while completion.finish_reason is None:
            yield from self.decode_step()
        if completion.error is not None:
            raise completion.error

    def cancel(self) -> None:
        """End every text with what it has; from any thread or signal handler, also while the model runs."""
        self._token.cancel()

    @property
    def keeps_prompts(self) -> bool:
        """Whether prompts that begin alike are computed once."""
        return self._engine.prefix_cache.max_bytes > 0 and not self._engine.traced

    @property
    def interrupted(self) -> str | None:
        """``"cancelled"`` or ``"timeout"`` once no text is to go on."""
        if self._token.cancelled:
            return CANCELLED
        return TIMEOUT if self._token.expired else None

    # ---- parts

    def _decode_feeds(self, texts: list[Completion]) -> list[Feed]:
        """The last token of every text, and drafted ones behind it."""
        for completion in texts:
            completion.shift_context()
        feeds = []
        for completion, drafted in zip(texts, self._speculator.drafts(texts), strict=True):
            ids, last = completion.pending + drafted, len(completion.pending) - 1
            feeds.append(Feed(completion, ids, list(range(last, len(ids))) if drafted else None))
        return feeds

    def _prompt_feed(self, completion: Completion, count: int) -> Feed:
        """The next ``count`` tokens of a prompt; logits are wanted at its end alone, if any token is."""
        wanted = count >= len(completion.pending) and completion.options.max_tokens > 0
        return Feed(completion, completion.pending[:count], None if wanted else [])

    def _run(self, texts: list[Completion], prompts: Sequence[tuple[Completion, int]]) -> list[Step]:
        """One call of the model, and the tokens that it brings."""
        reason = self.interrupted
        if reason is None:
            try:
                with self._token:
                    feeds = [*self._decode_feeds(texts), *(self._prompt_feed(*prompt) for prompt in prompts)]
                    count = self._greedy_runs(feeds[0]) if len(texts) == 1 and not prompts else 1
                    if count == 1:
                        results, model_ms = self._forward(feeds)
                    else:
                        feeds[0], results, model_ms = self._forward_greedy(feeds[0], count)
            except Cancelled:
                self._engine.check_open()
                reason = self.interrupted or CANCELLED  # somebody stopped the model itself
        if reason is not None:
            self._end_all([*texts, *(completion for completion, _ in prompts)], reason)
            return []
        if not prompts and all(len(feed.completion.pending) == 1 for feed in feeds):
            self._speculator.learn(sum([len(feed.ids) // feed.runs for feed in feeds]), model_ms)
        steps: list[Step] = []
        for feed, rows in zip(feeds, results, strict=True):
            try:
                if feed.completion.tokens:
                    steps.append(self._after_token(feed, rows, model_ms))
                else:
                    steps += self._after_prompt(feed, rows, model_ms)
            except PymlError as error:  # of this text: the others go on
                feed.completion.fail(error)
        self._count_time(texts, [step for step in steps if step.index], model_ms)
        self._drop_ended()
        return steps

    def _go_ahead(self) -> list[Step] | None:
        """A token of each text that was computed ahead or is forced, without a run; None if there is none."""
        if len(self.running) == 1 and self.running[0].ahead is not None:
            return self._go_alone(self.running[0])
        ahead = [text for text in self.running if text.ahead is not None]
        forced = [text for text in self.running if text.forced and text.options.logprobs is None]
        if not ahead and not forced:
            return None
        reason = self.interrupted
        if reason is not None:
            self._end_all(self.running, reason)
            return []
        steps: list[Step] = []
        for text in (*ahead, *forced):
            try:
                steps.append(self._take_forced(text) if text.ahead is None else self._follow(text))
            except PymlError as error:
                text.fail(error)
        self._count_time([*ahead, *forced], steps, sum([step.model_ms for step in steps]))
        if any(text.finish_reason is not None for text in self.running):
            self._drop_ended()
        return steps

    def _go_alone(self, text: Completion) -> list[Step]:
        """The same of a text beside which there is none: little to do, out of caches that the weights have swept."""
        reason = self.interrupted
        if reason is not None:
            self._end_all([text], reason)
            return []
        try:
            step = self._follow(text)
        except PymlError as error:
            text.fail(error)
            self._drop_ended()
            return []
        self._count_time([text], [step], step.model_ms)
        if step.finish_reason is not None:
            self._drop_ended()
        return [step]

    def _follow(self, text: Completion) -> Step:
        """The next token, from what was computed ahead; a run of its own is the token's time."""
        logits = text.follow()
        return self._choose(text, logits, logits.ms if isinstance(logits, GreedyToken) else 0.0)

    def _take_forced(self, text: Completion) -> Step:
        """The next token, which is run later, with the next one that is chosen.

        Where log probabilities are asked for, it has a run of its own instead.
        """
        before = text.pending
        step = self._choose(text, None, 0.0)
        text.pending = [*before, *text.pending]
        if text.finish_reason is not None and text.cache_given:  # somebody goes on from its last token
            try:
                with self._token:
                    self._forward([Feed(text, text.pending[:-1], [])])
            except Cancelled:
                text.finish_reason = self.interrupted or CANCELLED
        return step

    def _forward(self, feeds: Sequence[Feed]) -> tuple[Sequence[Rows], float]:
        """Logits of the wanted positions of every feed, and milliseconds. The model is asked here alone.

        They are the largest ones alone where these decide and a screened head finds them sooner.
        """
        batch = [(feed.completion.cache, feed.ids, feed.positions) for feed in feeds]
        k = self._top(feeds)
        return self._engine.forward(batch, ALL_LOGITS if k is None else Top(k))

    def _greedy_runs(self, feed: Feed) -> int:
        """How many tokens of a text that runs alone to find in one call: one where Python has to look at each."""
        options = feed.completion.options
        if len(feed.ids) > 1 or options.required_top_k != 1 or options.stop:
            return 1
        return self._speculator.greedy_runs(feed.completion)

    def _forward_greedy(self, feed: Feed, count: int) -> tuple[Feed, list[list[GreedyToken]], float]:
        """The same as so many calls of :meth:`_forward`: what was run, what came after each, and the time of the first.

        Between two runs Python takes several times as long as otherwise, because weights drive it out of the caches.
        """
        text = feed.completion
        ends = (*self._engine.eos_ids, *text.options.stop_ids)
        past, repeat = self._speculator.past(text)
        want = Greedy(count, ends, past, repeat)
        (found,), model_ms = self._engine.forward([(text.cache, feed.ids, None)], want)
        ids = [*feed.ids, *[one.token for one in found[:-1]]]
        return Feed(text, ids, None, len(found)), [found], model_ms - sum([one.ms for one in found[1:]])

    def _top(self, feeds: Sequence[Feed]) -> int | None:
        """How many of the largest logits are enough for every feed; None: all are wanted, or as soon computed."""
        if not self._engine.model.screened:
            return None
        wanted = [feed.completion.options for feed in feeds if feed.positions is None or feed.positions]
        counts = [options.required_top_k for options in wanted]
        if not counts or any(count is None or count > MAX_TOP for count in counts):
            return None
        return max(count for count in counts if count is not None)

    def _after_token(self, feed: Feed, rows: Rows, model_ms: float) -> Step:
        """The next token, and what was computed beyond it."""
        completion = feed.completion
        drafted = feed.ids[len(completion.pending) :]
        if drafted:
            if completion.options.required_top_k == 1:
                rows = [row if isinstance(row, GreedyToken) else _largest(row) for row in rows]
            completion.look_ahead(drafted, list(rows[1:]))
        return self._choose(completion, rows[0], model_ms)

    def _after_prompt(self, feed: Feed, rows: Rows, model_ms: float) -> list[Step]:
        """The first token, if this was the end of the prompt."""
        completion = feed.completion
        completion.prefill_ms += model_ms
        del completion.pending[: len(feed.ids)]
        if completion.pending:
            return []
        logs.generator.debug(
            "[perf] generator.prefill tokens=%d %.3fms%s",
            len(completion.prompt) - completion.reused, completion.prefill_ms,
            f" reused={completion.reused}" if completion.reused else "",
        )  # fmt: skip
        self._engine.prefix_cache.add(completion.cache)
        if not len(rows):
            self._end_all([completion], LENGTH)
            return []
        step = self._choose(completion, rows[-1], 0.0)
        completion.decode_ms += step.sample_ms
        if completion.finish_reason is None:
            self.running.append(completion)
            if completion.matcher is None:
                self._speculator.begin(completion)
        return [step]

    def _count_time(self, texts: Sequence[Completion], steps: Sequence[Step], model_ms: float) -> None:
        """Add a run's time to the texts that it went on with: they wait for each other."""
        if not texts:
            return
        sample_ms = steps[0].sample_ms if len(steps) == 1 else sum([step.sample_ms for step in steps])
        for completion in texts:
            completion.decode_ms += model_ms + sample_ms
        if steps and logs.generator.isEnabledFor(logging.DEBUG):
            logs.generator.debug(
                "[perf] generator.decode_step token=%d model=%.3fms sample=%.3fms total=%.3fms",
                max(step.index for step in steps), model_ms, sample_ms, model_ms + sample_ms,
            )  # fmt: skip

    def _choose(self, completion: Completion, logits: Logits | None, model_ms: float) -> Step:
        """The next token: the one that the grammar forces, or one that the rules choose from the logits."""
        start = time.perf_counter()
        position, options = completion.position, completion.options
        if completion.forced:
            token = completion.forced.pop(0)
        elif isinstance(logits, GreedyToken):
            check_finite(logits.logit, logits.token, position)
            token = logits.token
        elif logits is not None:
            token = self._sample(completion, logits)
        else:
            raise RuntimeError("expected logits where no token is forced")
        logprob, top = None, None
        if options.logprobs is not None and isinstance(logits, np.ndarray):
            logprob, top = top_logprobs(logits, token, options.logprobs)
            completion.logprobs.append((logprob, top))
        silent = token in self._engine.eos_ids or token in options.stop_ids
        reason = None
        if silent or (completion.matcher is not None and self._matched(completion.matcher, completion, token)):
            reason = STOP
        elif len(completion.tokens) + 1 >= options.max_tokens or self._at_the_end(completion):
            reason = LENGTH
        text = completion.take(token, reason, silent)
        reason = completion.finish_reason
        if reason is not None:
            self._engine.prefix_cache.add(completion.cache)
        sample_ms = (time.perf_counter() - start) * 1e3
        index = len(completion.tokens) - 1
        return Step(token, text, index, position, completion.sequence, logprob, top, reason, model_ms, sample_ms)

    def _sample(self, completion: Completion, logits: F32Array | TopLogits) -> int:
        """The token that the rules choose, among those that may come next."""
        options, ids = completion.options, None
        if isinstance(logits, TopLogits):
            values, ids = logits.logits, logits.ids
        elif completion.matcher is not None:
            values, ids = completion.matcher.restrict(logits)
        else:
            values = logits
        return sample(values, options.sampling, options.sample_index, completion.position, completion.history, ids=ids)

    def _matched(self, matcher: Matcher, completion: Completion, token: int) -> bool:
        """Go on in the grammar; whether the text ends with this token."""
        matcher.take(token)
        if not completion.forced:
            completion.forced = matcher.forced()
        return matcher.ended

    def _at_the_end(self, completion: Completion) -> bool:
        """Whether the next token would have no place in the context."""
        return completion.options.overflow != SHIFT and completion.position >= completion.cache.max_length

    def _end_all(self, completions: Sequence[Completion], reason: str) -> None:
        """End texts without another token."""
        for completion in completions:
            completion.end(reason)
            self._engine.prefix_cache.add(completion.cache)
        self._drop_ended()

    def _drop_ended(self) -> None:
        self.running = [completion for completion in self.running if completion.finish_reason is None]
        self._started = [completion for completion in self._started if completion.finish_reason is None]


def _largest(logits: F32Array | TopLogits) -> GreedyToken:
    """What greedy choice comes to, found for all drafted tokens at once."""
    if isinstance(logits, TopLogits):
        return GreedyToken(*logits.best(), 0.0)
    token = int(logits.argmax())
    return GreedyToken(token, float(logits[token]), 0.0)
