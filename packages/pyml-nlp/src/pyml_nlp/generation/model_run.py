"""One call of the model for several texts: its inputs, and how their next tokens are chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from pyml_core.want import Choice, Sample, SampledToken, StopFlag
from pyml_nn import SequenceInput

from ..engine import Engine
from .completion import Completion
from .processing import processed
from .speculator import Speculator

Piece = tuple[Completion, int]
"""A text, and how many further tokens of its prompt run."""

Pieces = Callable[[int], Sequence[Piece]]
"""The pieces of prompts in a run, by the number of its other tokens."""


def only(*pieces: Piece) -> Pieces:
    """These pieces, whatever else is in the run."""
    return lambda _: pieces


class ModelRun(NamedTuple):
    """A call that is done.

    Attributes:
        batch: what was run first of each text; its cache has been advanced.
        found: the tokens that were chosen for each; none in the middle of a prompt.
        ms: milliseconds of the first run, and of all that was not another run or the choice of a token.
        tokens: tokens of the first run, of all texts together.
        total_ms: milliseconds of the whole call.
    """

    batch: list[SequenceInput]
    found: list[list[SampledToken]]
    ms: float
    tokens: int
    total_ms: float


class Runner:
    """Runs the model for texts. The model is asked here alone, except for drafts.

    Args:
        engine: of the model.
        speculator: drafts.

    Attributes:
        pause: if it is set, calls end after their present run.
    """

    def __init__(self, engine: Engine, speculator: Speculator) -> None:
        self.pause: StopFlag | None = None
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
        """Run the inputs of these texts together, and choose their next tokens.

        ``decoding``: all of them have begun. They may then get several tokens in one call.
        """
        if any(completion.options.logits_processor is not None for completion in texts):
            return self._run_processed(texts, batch)
        drafted = any(one.positions for one in batch)
        count = self._speculator.runs(texts) if decoding and not drafted else 1
        choices: list[Choice] = []
        ends: set[int] = set()
        for completion, one in zip(texts, batch, strict=True):
            if one.positions is None or one.positions:
                choices.append(self._choice(completion, len(texts) if count > 1 else 0))
                ends |= completion.ends
        found, total_ms = self._engine.forward(batch, Sample(choices, count, ends, self.pause))
        longest: list[SampledToken] = max(found, key=len, default=[])
        choosing_ms = len(choices) * sum([one.choosing_ms for one in longest])
        ms = total_ms - choosing_ms - sum([one.ms for one in longest[1:]])
        return ModelRun(batch, found, ms, sum([len(one.ids) for one in batch]), total_ms)

    def _run_processed(self, texts: Sequence[Completion], batch: list[SequenceInput]) -> ModelRun:
        """:meth:`run` where a function of the user's changes logits, which may use the model itself."""
        results, ms = self._engine.forward(batch)
        found = [[processed(one, row) for row in rows] for one, rows in zip(texts, results, strict=True)]
        return ModelRun(batch, found, ms, sum([len(one.ids) for one in batch]), ms)

    def _choice(self, completion: Completion, n_texts: int) -> Choice:
        """How the next tokens of a text are chosen; ``n_texts``: it goes on by itself, with so many texts in all."""
        follow = None if completion.matcher is None else completion.follow
        stops = None if completion.stop_tokens is None else completion.stop_tokens.table
        if not n_texts:
            if completion.late_matcher is None:  # otherwise drafted tokens end where the grammar begins
                stops = None
            return Choice(completion.sampler, completion.position, stops, follow)
        history, repeat = self._speculator.repetition(completion, n_texts)
        return Choice(completion.sampler, completion.position, stops, follow, history, repeat)


def prompt_input(completion: Completion, count: int) -> SequenceInput:
    """The next ``count`` tokens of a prompt; a token is chosen at its end alone, if any is wanted."""
    wanted = count >= len(completion.pending) and completion.options.max_tokens > 0
    return SequenceInput(completion.cache, completion.pending[:count], None if wanted else [])
