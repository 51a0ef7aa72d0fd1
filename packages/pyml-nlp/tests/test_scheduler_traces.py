"""Rules that hold whatever arrives, ends or is cancelled when: random traces on a model with a clock of its own."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from fake_model import FakeModel, make, request

from pyml_core.cancel import CancelToken
from pyml_nlp.generation import kv_budget
from pyml_nlp.generation.completion import CANCELLED, Completion
from pyml_nlp.generation.generator import Generator
from pyml_nlp.generation.prefill_budget import FEWEST
from pyml_nlp.generation.prefix_cache import PrefixCache
from pyml_nlp.generation.scheduler import AGEING_TOKENS, MAX_PARTS, Scheduler
from pyml_nlp.generation.speculation import MAX_DRAFT

PAGE = FakeModel.kv_layout.page_bytes
TRACES = 100  # of each seed
DECODE_MS, TOKEN_MS = 4.0, 0.25


def following(ids: Sequence[int]) -> int:
    """A token that depends on every id before it."""
    return 97 + (sum(ids) * 31 + len(ids)) % 26


def alone(prompt: Sequence[int], count: int) -> list[int]:
    ids = list(prompt)
    for _ in range(count):
        ids.append(following(ids))
    return ids[len(prompt) :]


@dataclass
class Text:
    """A text of a trace."""

    arrives: float
    completion: Completion
    max_tokens: int
    cancelled_at: float | None
    ends: int = 0
    gone: bool = False
    runs_without_a_piece: int = 0
    order: int = field(default=-1)


class Trace:
    """Texts that arrive at random times, and what may happen between two runs of the model.

    Args:
        seed: of everything that is random.
    """

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        lm = make(lambda ids: following(ids), context=2000, prefill_chunk=rng.choice([64, 512]), eos=())
        lm.prefix_cache = PrefixCache(rng.choice([0, 4 * PAGE, 1 << 28]))
        self.engine: Any = lm.engine
        self.model: Any = self.engine.model
        vars(lm.engine)["forward"] = self.forward
        self.clock, self.n_runs, self.run_ms = 0.0, 0, list[tuple[float, int]]()
        row = np.zeros(FakeModel.vocab_size, np.float32)

        def logits(ids: list[int]) -> np.ndarray:
            found = row.copy()
            found[following(ids)] = 8.0
            return found

        vars(lm.engine.model)["_logits"] = logits  # without noise, which takes most of the time
        self.generator = Generator(lm, speculate=rng.random() < 0.5)
        self.scheduler = Scheduler(self.generator, max_batch_size=rng.choice([1, 2, 4, 8]), chunk=lm.prefill_chunk)
        self.scheduler.max_gap = rng.choice([0.001, 0.02, 0.05])
        self.limit = rng.choice([None, 7, 8, 12, 40])
        self.scheduler.kv_bytes = None if self.limit is None else self.limit * PAGE
        self.texts = [self.text(number) for number in range(rng.randrange(2, 14))]
        self.texts.sort(key=lambda text: text.arrives)
        self.admitted: list[Completion] = []

    def text(self, number: int) -> Text:
        rng = self.rng
        most = 1500 if self.limit is None else self.limit * 64
        length = min(most - 20, rng.choice([1, 5, 30, 64, 200, 900]) + rng.randrange(3))
        prompt = [rng.randrange(4) if rng.random() < 0.02 else 5 for _ in range(length)]
        max_tokens = min(most - length, rng.choice([0, 1, 3, 20, 60, 200, 200]))
        completion = self.generator.prepare(request(prompt, max_tokens))
        completion.stop_token = CancelToken()
        completion.sequence = number
        completion.client = rng.choice([None, "a", "b"])
        completion.priority = rng.choice([0, 0, 0, 1])
        arrives = rng.random() * rng.choice([1, 300])
        cancelled_at = arrives + rng.random() * 300 if rng.random() < 0.25 else None
        return Text(arrives, completion, max_tokens, cancelled_at)

    def forward(self, batch: Sequence[Any], want: Any) -> tuple[Any, float]:
        """A run of the model, and what must hold in it."""
        caches = {id(one.cache) for one in batch}
        running = self.generator.running
        assert all(id(one.cache) in caches for one in running), "a running text was left out of a run"
        for text in self.texts:
            if text.gone:
                assert id(text.completion.cache) not in caches, "a text that was cancelled runs"
        budget = self.scheduler._budget
        decoded = sum(len(one.ids) for one in batch[: len(running)])
        prompts = sum(len(one.ids) for one in batch[len(running) :])
        calls = len(self.model.calls)
        results = self.model.forward(batch, want)
        n_runs = len(self.model.calls) - calls
        self.check_memory(budget)
        run_ms = DECODE_MS * (1 + 0.08 * max(0, decoded - 1))
        ms = run_ms * n_runs + TOKEN_MS * prompts
        if n_runs > 1:
            results = [
                [found[0], *(one._replace(ms=run_ms, choosing_ms=0.0) for one in found[1:])] for found in results
            ]
        if running and prompts and self.engine.costs.ms is not None:
            self.run_ms.append((ms, decoded))
        for text in self.texts:
            if text.completion in self.scheduler._prompts and text.completion not in self.scheduler._following:
                got = id(text.completion.cache) in caches
                text.runs_without_a_piece = 0 if got else text.runs_without_a_piece + 1
                bound = (len(text.completion.prompt) + text.max_tokens) // AGEING_TOKENS + 8 * MAX_PARTS
                assert text.runs_without_a_piece <= bound, "a prompt waits too long for its next piece"
        self.clock += ms
        self.n_runs += 1
        return results, ms

    def check_memory(self, budget: Any) -> None:
        if self.limit is None:
            return
        assert budget.reserved <= self.limit * PAGE, "more is reserved than allowed"
        pages = {id(page) for one in self.scheduler.batch for page in one.cache.pages}
        assert len(pages) * PAGE <= budget.reserved, "texts have more pages than they have reserved"

    def cancel(self, texts: Sequence[Text]) -> None:
        ended = [text.completion for text in texts if text.completion.finish_reason is None]
        for text in texts:
            text.completion.stop_token.cancel()
            text.gone = True
        self.generator.end(ended, CANCELLED)
        self.scheduler.drop(ended)
        for completion in ended:
            self.text_of(completion).ends += 1

    def text_of(self, completion: Completion) -> Text:
        return next(text for text in self.texts if text.completion is completion)

    def run(self) -> None:
        waiting, scheduler = list(self.texts), self.scheduler
        for _ in range(100_000):
            while waiting and waiting[0].arrives <= self.clock:
                scheduler.waiting.add(waiting.pop(0).completion)
            here = [text for text in self.texts if text not in waiting and not text.ends]
            late = [text for text in here if text.cancelled_at is not None and text.cancelled_at <= self.clock]
            if late:
                self.cancel(late)
            batch = scheduler.batch
            scheduler.admit()
            lost = [one for one in batch if not one.placed]
            stayed = [one for one in batch if one.placed]
            assert stayed or not batch
            for completion in lost:
                self.text_of(completion).runs_without_a_piece = 0
            assert all(one.priority <= min(other.priority for other in stayed) for one in lost)
            self.admitted += [one for one in scheduler.batch if one not in self.admitted]
            before = len(scheduler.batch)
            assert before <= scheduler.max_batch_size
            steps, ended = scheduler.step()
            assert len({step.sequence for step in steps}) == len(steps)
            for completion in ended:
                self.text_of(completion).ends += 1
            if self.limit is not None:
                total = scheduler._budget.reserved + self.engine.prefix_cache.nbytes
                assert total <= self.limit * PAGE, "texts and prefixes take more than allowed"
            if not scheduler.busy:
                if not waiting:
                    return
                self.clock = max(self.clock, waiting[0].arrives)
        raise AssertionError("the texts do not end")

    def check(self) -> None:
        for text in self.texts:
            completion = text.completion
            assert text.ends == 1, f"text {completion.sequence} has ended {text.ends} times"
            expected = alone(completion.prompt, text.max_tokens)
            if text.gone and completion.finish_reason == CANCELLED:
                assert completion.tokens == expected[: len(completion.tokens)]
            else:
                assert (completion.finish_reason, completion.error) == ("length", None)
                assert completion.tokens == expected
        same: dict[Any, list[int]] = {}
        order = {text.completion: number for number, text in enumerate(self.texts)}
        for completion in self.admitted:
            same.setdefault((completion.client, completion.priority), []).append(order[completion])
        for numbers in same.values():
            assert numbers == sorted(numbers), "texts of a client have overtaken each other"
        # A run with pieces takes the gap, or what the running texts and the smallest piece take.
        gap = self.scheduler.max_gap * 1e3
        for ms, decoded in self.run_ms:
            least = DECODE_MS * (1 + 0.08 * (decoded + MAX_DRAFT)) + (FEWEST + 1) * TOKEN_MS
            assert ms <= max(2 * gap, 2 * least), f"a run took {ms} ms, the gap is {gap} ms"


@pytest.mark.parametrize("seed", range(10))
def test_traces(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_budget, "FIRST_TOKENS", 8)  # so that short texts have to grow
    monkeypatch.setattr(kv_budget, "GROWTH_TOKENS", 8)
    n_preempted = 0
    for number in range(TRACES):
        trace = Trace(seed * TRACES + number)
        try:
            trace.run()
            trace.check()
        except BaseException as error:
            error.add_note(f"trace {seed * TRACES + number}")
            raise
        assert (trace.scheduler._budget.reserved, trace.generator.running, trace.generator._admitted) == (0, [], [])
        assert not trace.scheduler._prompts
        assert not trace.scheduler._following
        n_preempted += trace.scheduler.n_preempted
    assert n_preempted > 0, "no trace had too little memory"
