"""One call of the model for several texts: its inputs, and which logits are wanted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pyml_core.want import ALL_LOGITS, MAX_TOP, Greedy, Top
from pyml_nn import SequenceInput

from ..engine import Engine
from .completion import Completion, Rows
from .speculator import Speculator


class ModelRun(NamedTuple):
    """A call that is done.

    Attributes:
        batch: what was run of each text; its cache has been advanced.
        rows: logits of the wanted positions of each.
        ms: milliseconds, of the first run if it was several.
        tokens: tokens of each run, of all texts together.
    """

    batch: list[SequenceInput]
    rows: Sequence[Rows]
    ms: float
    tokens: int


class Runner:
    """Runs the model for texts. The model is asked here alone, except for drafts.

    Args:
        engine: of the model.
        speculator: drafts.
    """

    def __init__(self, engine: Engine, speculator: Speculator) -> None:
        self._engine = engine
        self._speculator = speculator

    def decode_inputs(self, texts: Sequence[Completion]) -> list[SequenceInput]:
        """The last token of every text, and drafted ones after it."""
        for completion in texts:
            completion.shift_context()
        inputs = []
        for completion, drafted in zip(texts, self._speculator.drafts(texts), strict=True):
            ids, last = completion.pending + drafted, len(completion.pending) - 1
            inputs.append(SequenceInput(completion.cache, ids, list(range(last, len(ids))) if drafted else None))
        return inputs

    def run(self, texts: Sequence[Completion], batch: list[SequenceInput], decoding: bool) -> ModelRun:
        """Run the inputs of these texts together.

        ``decoding``: all of them have begun. A text that runs alone may then get several tokens in one call.
        """
        if decoding and len(texts) == 1:
            count = self._greedy_runs(texts[0], batch[0])
            if count > 1:
                return self._run_greedy(texts[0], batch[0], count)
        k = self._top(texts, batch)
        rows, ms = self._engine.forward(batch, ALL_LOGITS if k is None else Top(k))
        return ModelRun(batch, rows, ms, sum([len(one.ids) for one in batch]))

    def _run_greedy(self, completion: Completion, one: SequenceInput, count: int) -> ModelRun:
        """Several runs in one call, each of the most probable token after the run before.

        Between two runs Python takes several times as long as otherwise, because weights evict it from the CPU caches.
        """
        history, repeat = self._speculator.ngram_history(completion)
        want = Greedy(count, (*self._engine.eos_ids, *completion.options.stop_ids), history, repeat)
        (found,), ms = self._engine.forward([one], want)
        ids = [*one.ids, *[token.token for token in found[:-1]]]
        return ModelRun([SequenceInput(one.cache, ids)], [found], ms - sum([token.ms for token in found[1:]]), 1)

    def _greedy_runs(self, completion: Completion, one: SequenceInput) -> int:
        """How many tokens to find in one call: one where Python has to look at each."""
        options = completion.options
        if len(one.ids) > 1 or options.required_top_k != 1 or options.stop:
            return 1
        return self._speculator.greedy_runs(completion)

    def _top(self, texts: Sequence[Completion], batch: Sequence[SequenceInput]) -> int | None:
        """How many of the largest logits are enough for every text; None: all are wanted, or are found as soon."""
        if not self._engine.model.screened:
            return None
        counts = [
            completion.options.required_top_k
            for completion, one in zip(texts, batch, strict=True)
            if one.positions is None or one.positions
        ]
        if not counts or any(count is None or count > MAX_TOP for count in counts):
            return None
        return max(count for count in counts if count is not None)


def prompt_input(completion: Completion, count: int) -> SequenceInput:
    """The next ``count`` tokens of a prompt; logits are wanted at its end alone, if any token is."""
    wanted = count >= len(completion.pending) and completion.options.max_tokens > 0
    return SequenceInput(completion.cache, completion.pending[:count], None if wanted else [])
