"""From token ids to text: prefill, then one decode step after another, for one text or several side by side.

``prefill`` runs a prompt and chooses the first token; every ``decode_step`` runs the last token of each running text
and chooses its next one. They are timed apart. The last token of a text is not run, because nothing reads the result.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from time import monotonic

from pyml_core.cancel import CancelToken
from pyml_core.errors import Cancelled, OutOfMemoryError, PymlError
from pyml_core.pickling import OfOneProcess
from pyml_core.want import SampledToken, StopFlag
from pyml_nn import KVCache, SequenceInput

from .. import logs
from ..engine import Engine, HasEngine, engine_of
from ..values import seconds
from .admission import check_memory, check_request, prepared, refused, undo_choices
from .completion import CANCELLED, LENGTH, Completion, Step, stop_reason
from .draft_model import drafting_of
from .model_run import ModelRun, Piece, Pieces, Runner, only, prompt_input
from .preparing import preparing
from .request import Request
from .speculator import Speculator
from .taking import Taker

_NO_PROMPTS = only()


class Generator(OfOneProcess, instead="make one with the model of the other process"):
    """Generates texts with one model.

    Args:
        engine: of the model; a language model stands for its own.
        timeout: seconds from now after which every text ends, with the tokens so far.
        speculate: draft tokens and check several in a run where that pays; the texts are the same either way.
        draft_model: a smaller model that drafts where the text's own past does not.

    Attributes:
        running: the texts that have their first token and have not ended.
        observer: called after each call of the model, with the run, its texts, and how many of them had begun.

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
        self._drafting = drafting_of(self._engine, speculate, draft_model)
        self._speculator = Speculator(self._engine)
        self._runner = Runner(self._engine, self._speculator)
        self._taker = Taker(self._engine)
        self.stop_token = CancelToken(seconds("timeout", timeout))
        self._admitted: list[Completion] = []  # and not ended
        self._numbers = itertools.count()
        self.running: list[Completion] = []
        self.observer: Callable[[ModelRun, Sequence[Completion], int], None] | None = None

    @property
    def engine(self) -> Engine:
        """The engine of the model."""
        return self._engine

    # ---- beginning

    def preparing(self) -> AbstractContextManager[None]:
        """A ``with`` block in which prompts are made, see :func:`.preparing.preparing`."""
        return preparing(self.stop_token)

    def check(self, request: Request, cache: KVCache | None = None) -> int:
        """Most positions that the prompt and its text may take together.

        Raises:
            ContextOverflowError: the prompt alone takes more, and the context is not shifted.
            ArgumentError: a token that the model does not have, or ``cache`` is not a KVCache.
            ShapeError: a cache of another origin.
            PymlError: a context shift would keep more than half of the context.
        """
        return check_request(self._engine, request, cache)

    def start(self, request: Request, cache: KVCache | None = None) -> Completion:
        """Prepare a text; nothing is computed.

        Args:
            request: how it is generated; if it needs a seed and has none, it gets a random one, logged at debug.
            cache: continue after its positions; None: a new one, just large enough.

        Raises:
            ContextOverflowError: the prompt does not fit.
            OutOfMemoryError: the keys and values of the whole text would not fit.
            GrammarError: a grammar that cannot be used, or llguidance is not installed.
            ArgumentError, ShapeError: as of :meth:`check`.
            PymlError: the model is closed.
        """
        completion = self.prepare(request, cache)
        self.admit(completion)
        return completion

    def prepare(self, request: Request, cache: KVCache | None = None) -> Completion:
        """:meth:`start` without its look at memory; the text has no place yet."""
        completion = prepared(self._engine, request, cache, self.stop_token, self._drafting)
        completion.sequence = next(self._numbers)
        return completion

    def admit(self, completion: Completion) -> None:
        """Give a prepared text a place.

        Raises:
            OutOfMemoryError: its keys and values would not fit in memory next to those of the other texts.
        """
        check_memory(self._engine, self._admitted, completion)
        self.place(completion)

    def place(self, completion: Completion) -> None:
        """:meth:`admit` without its look at memory."""
        self._admitted.append(completion)
        completion.placed = True
        if completion.admitted_at is None:
            completion.admitted_at = monotonic()

    def preempt(self, completion: Completion) -> None:
        """Take the place of a text, and free its keys and values.

        With another place it goes on as if nothing had happened: what it had becomes its prompt. It must not have
        tokens that have been chosen but not given (:attr:`has_steps`).
        """
        completion.placed = False
        self.running = [one for one in self.running if one is not completion]
        self._admitted = [one for one in self._admitted if one is not completion]
        completion.pending = [*completion.cache.ids, *completion.pending]
        completion.cache.trim(0)
        if not completion.tokens:
            completion.reused = 0

    def refused(self, request: Request, error: PymlError) -> Completion:
        """The text of a request that :meth:`prepare` has refused with this error, ended before it began."""
        return refused(self._engine, next(self._numbers), request, error)

    # ---- steps

    def begin(self, completion: Completion) -> None:
        """Take the beginning of a prompt from the prefix cache: before the first :meth:`advance` of its text."""
        completion.shift_context()
        if not completion.cache.length:
            self.catch_up(completion)

    def catch_up(self, completion: Completion) -> None:
        """Take more of a prompt from the prefix cache than has been computed, if it has more."""
        if self._engine.traced:  # a trace shows the whole prompt
            return
        cache, pending = completion.cache, completion.pending
        kept = self._engine.prefix_cache.fork([*cache.ids, *pending], completion.salt, cache.origin)
        gained = 0 if kept is None else kept.length - cache.length
        if kept is not None and gained > 0:
            cache.replace(kept)
            if not completion.tokens:
                completion.reused += gained
            del pending[:gained]

    def prefill(self, completion: Completion) -> Step | None:
        """Run the prompt and choose the first token.

        The text ends here without a token if the deadline passes, if it is cancelled, or if ``max_tokens`` is 0.
        """
        self.begin(completion)
        steps = self._run([], only((completion, len(completion.pending))))
        return steps[0] if steps else None

    def decode_step(self) -> list[Step]:
        """The next token of every running text, which all run together; texts that end leave ``running``.

        A call of the model may choose several tokens of each text; then the next calls of this method run nothing.
        Returns no step, with every text ended, if the deadline has passed or the generator is cancelled.
        """
        return self.advance(_NO_PROMPTS)

    def advance(self, pieces: Pieces) -> list[Step]:
        """:meth:`decode_step`, together with pieces of prompts.

        Args:
            pieces: called if the model runs, with the number of tokens of running texts in the run; it returns texts,
                and how many further tokens of their prompts run, too.
        """
        steps = self._steps_without_run()
        return self._run(list(self.running), pieces) if steps is None else steps

    @property
    def has_steps(self) -> bool:
        """Whether the next steps come without a run of the model."""
        return any(one.chosen or one.takes_forced for one in self.running)

    def prompt_room(self, gap: float, depth: int, decoded: int) -> int:
        """Tokens of prompts that a run may have, from this depth on, to take ``gap`` seconds.

        ``decoded``: tokens of running texts in it.
        """
        return self._engine.prefill_costs.tokens(gap, depth, decoded)

    def run(self, completion: Completion) -> Iterator[Step]:
        """The steps of one text, from its prefill to its end; then raises the error that ended it, if one did."""
        step = self.prefill(completion)
        if step is not None:
            yield step
        while completion.finish_reason is None:
            yield from self.decode_step()
        if completion.error is not None:
            raise completion.error

    @property
    def pause(self) -> StopFlag | None:
        """If it is set, from any thread, a call of the model ends after its present run."""
        return self._runner.pause

    @pause.setter
    def pause(self, pause: StopFlag | None) -> None:
        self._runner.pause = pause

    def cancel(self) -> None:
        """End every text, keeping the tokens so far; from any thread or signal handler, also while the model runs."""
        self.stop_token.cancel()

    def end(self, completions: Sequence[Completion], reason: str) -> None:
        """End texts without another token, each for the reason of its own stop token, if that has one."""
        for completion in completions:
            completion.end(stop_reason(completion.stop_token) or reason)
            self._engine.prefix_cache.add(completion.cache, completion.salt)
        self._drop_ended()

    @property
    def keeps_prompts(self) -> bool:
        """Whether prompts that begin alike are computed once."""
        return self._engine.prefix_cache.max_bytes > 0 and not self._engine.traced

    # ---- a step with a run of the model

    def _run(self, texts: list[Completion], pieces: Pieces) -> list[Step]:
        """One call of the model, and the first of the tokens that it gives each text."""
        texts = self._masked(texts)
        completions, prompts = texts, list[Piece]()
        reason = stop_reason(self.stop_token)
        if reason is None:
            try:
                with self.stop_token:
                    batch = self._runner.decode_inputs(texts)
                    prompts = list(pieces(sum([len(one.ids) for one in batch])))
                    if prompts:
                        prompts = [prompt for prompt in prompts if self._masked([prompt[0]])]
                        completions = [*texts, *(completion for completion, _ in prompts)]
                        batch += [prompt_input(*prompt) for prompt in prompts]
                    if not completions:
                        return []
                    run = self._runner.run(completions, batch, decoding=not prompts)
            except Cancelled:
                self._engine.check_open()
                reason = stop_reason(self.stop_token) or CANCELLED  # the model itself was cancelled
            except (PymlError, MemoryError) as error:
                self._engine.check_open()
                return self._run_apart(texts, prompts, error)
        if reason is not None:
            prompts = prompts or list(pieces(0))
            self.end([*texts, *(completion for completion, _ in prompts)], reason)
            return []
        if self.observer is not None:
            self.observer(run, completions, len(texts))
        if prompts:
            self._engine.prefill_costs.learn_run(run.batch, len(texts), run.ms)
        elif all(len(completion.pending) == 1 for completion in completions):
            self._speculator.learn(run.tokens, run.ms)
        steps = self._after_run(completions, len(texts), run)
        self._count_time(texts, [step for step in steps if step.index], run.ms)
        self._drop_ended()
        return steps

    def _masked(self, texts: list[Completion]) -> list[Completion]:
        """These texts, with the masks of their grammars; those whose grammar fails end."""
        if all(completion.matcher is None for completion in texts):
            return texts
        for completion in texts:
            try:
                completion.update_mask()
            except PymlError as error:
                completion.fail(error)
        self._drop_ended()
        return [completion for completion in texts if completion.finish_reason is None]

    def _run_apart(
        self, texts: list[Completion], prompts: Sequence[Piece], error: PymlError | MemoryError
    ) -> list[Step]:
        """Run again, text by text, after an error of the whole run: it ends only the text that has it."""
        if len(texts) + len(prompts) > 1:
            for completion in (*texts, *(completion for completion, _ in prompts)):
                undo_choices(self._engine, completion)
            steps = [step for completion in texts for step in self._run([completion], _NO_PROMPTS)]
            return steps + [step for prompt in prompts for step in self._run([], only(prompt))]
        for completion in (*texts, *(completion for completion, _ in prompts)):
            own = error if isinstance(error, PymlError) else OutOfMemoryError("a run of the model: out of memory")
            completion.fail(own)
        self._drop_ended()
        return []

    def _after_run(self, completions: Sequence[Completion], n_texts: int, run: ModelRun) -> list[Step]:
        """The step of every text that gets a token. An error in choosing it ends that text alone."""
        steps: list[Step] = []
        for number, (completion, one, found) in enumerate(zip(completions, run.batch, run.found, strict=True)):
            try:
                if number < n_texts:
                    if one.positions:
                        completion.drafted += len(one.ids) - one.positions[0] - 1
                        completion.accepted += len(found) - 1
                    completion.set_chosen(found)
                    steps.append(self._taker.take(completion, completion.chosen.pop(), run.ms))
                else:
                    steps += self._after_prompt(completion, one, found, run.ms)
            except PymlError as error:
                completion.fail(error)
        return steps

    def _after_prompt(
        self, completion: Completion, one: SequenceInput, found: list[SampledToken], model_ms: float
    ) -> list[Step]:
        """The first token, if this was the end of the prompt; or the next one of a text that has another place."""
        resumed = bool(completion.tokens)
        if resumed:
            completion.decode_ms += model_ms
        else:
            completion.prefill_ms += model_ms
        del completion.pending[: len(one.ids)]
        if completion.pending:  # others may need the same beginning already
            self._engine.prefix_cache.add(completion.cache, completion.salt, whole_pages=True)
            return []
        if not resumed:
            logs.generator.debug(
                "[perf] generator.prefill tokens=%d %.3fms%s",
                len(completion.prompt) - completion.reused, completion.prefill_ms,
                f" reused={completion.reused}" if completion.reused else "",
            )  # fmt: skip
        self._engine.prefix_cache.add(completion.cache, completion.salt)
        if not found:
            completion.end(LENGTH)
            return []
        if not resumed:
            completion.first_token_at = monotonic()
        step = self._taker.take(completion, found[0], model_ms if resumed else 0.0)
        completion.decode_ms += step.sample_ms
        if completion.finish_reason is None:
            self.running.append(completion)
            if not resumed:
                self._speculator.begin(completion)
        return [step]

    # ---- a step without one

    def _steps_without_run(self) -> list[Step] | None:
        """A token of each text that has chosen or forced ones; None if no text has any."""
        if len(self.running) == 1 and self.running[0].chosen:
            return self._step_without_run(self.running[0])
        ready = [one for one in self.running if one.chosen or one.takes_forced]
        if not ready:
            return None
        reason = stop_reason(self.stop_token)
        if reason is not None:
            self.end(self.running, reason)
            return []
        steps: list[Step] = []
        for completion in ready:
            try:
                steps.append(self._take_chosen(completion) if completion.chosen else self._take_forced(completion))
            except PymlError as error:
                completion.fail(error)
        self._count_time(ready, steps, max([step.model_ms for step in steps], default=0.0))
        if any(completion.finish_reason is not None for completion in self.running):
            self._drop_ended()
        return steps

    def _step_without_run(self, completion: Completion) -> list[Step]:
        """:meth:`_steps_without_run` for a single running text.

        The weights have evicted everything else from the CPU caches, so this touches as little memory as possible.
        perf: overheads.py python_share
        """
        reason = stop_reason(self.stop_token)
        if reason is not None:
            self.end([completion], reason)
            return []
        try:
            step = self._take_chosen(completion)
        except PymlError as error:
            completion.fail(error)
            self._drop_ended()
            return []
        self._count_time([completion], [step], step.model_ms)
        if step.finish_reason is not None:
            self._drop_ended()
        return [step]

    def _take_chosen(self, completion: Completion) -> Step:
        """The next token of several that a call has chosen; a run of its own is the token's time."""
        found = completion.next_chosen()
        return self._taker.take(completion, found, found.ms)

    def _take_forced(self, completion: Completion) -> Step:
        """The next token, which runs later, together with the next one that is chosen.

        Where log probabilities are asked for, it has a run of its own instead.
        """
        before = completion.pending
        step = self._taker.take(completion, None, 0.0)
        completion.pending = [*before, *completion.pending]
        if completion.finish_reason is not None and completion.cache_given:  # the caller continues from the last token
            try:
                with self.stop_token:
                    self._engine.forward([SequenceInput(completion.cache, completion.pending[:-1], [])])
            except Cancelled:
                completion.finish_reason = stop_reason(completion.stop_token) or CANCELLED
        return step

    # ---- bookkeeping

    def _count_time(self, texts: Sequence[Completion], steps: Sequence[Step], model_ms: float) -> None:
        """Add a run's time to the texts that were in it: they wait for each other."""
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

    def _drop_ended(self) -> None:
        self.running = [completion for completion in self.running if completion.finish_reason is None]
        self._admitted = [completion for completion in self._admitted if completion.finish_reason is None]
