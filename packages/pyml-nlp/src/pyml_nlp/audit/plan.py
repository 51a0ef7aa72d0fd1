"""The plan of an audit, with estimated times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pyml_core.errors import PymlError

LENGTHS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
QUICK_LENGTHS = (16, 64, 256)
UNTIMED_FIRST = 512  # prompts up to this length are first run once without timing
REFERENCE_LENGTH = 128  # preferred length of the prompt that is compared with one decode step
SHORTEST_CONTEXT = 4
ALTERNATIVES = 4  # other options that are measured, usually
STEPS = 8  # decode steps of a sample of another option
DEEPEST = 1024  # tokens before these steps, at most: the type of keys and values matters in long texts


class Stage(NamedTuple):
    """A stage of an audit, and an estimate of its time."""

    text: str
    seconds: float


@dataclass(frozen=True)
class Plan:
    """Number and kind of the runs.

    Attributes:
        prompt_lengths: tokens of the prefills, ascending.
        repetitions: runs of each short prefill; long ones have fewer.
        decode_steps: traced steps after each prompt.
        jitter_steps: consecutive steps that are timed one by one.
        cold_runs: new processes for each of cold prefill and cold decode.
        layers: indices of the layers whose attention is analysed by part; empty: all.
    """

    prompt_lengths: tuple[int, ...]
    repetitions: int
    decode_steps: int
    jitter_steps: int
    cold_runs: int
    layers: tuple[int, ...] = ()

    @property
    def text_steps(self) -> int:
        """Number of steps with and without a screened head: a quarter of ``jitter_steps``."""
        return max(1, self.jitter_steps // 4)

    @property
    def reference(self) -> int:
        """The length of the prompt that is compared with one decode step: the nearest to ``REFERENCE_LENGTH``."""
        return min(self.prompt_lengths, key=lambda length: abs(length - REFERENCE_LENGTH))

    def repetitions_of(self, length: int) -> int:
        """Repetitions of a prefill: all up to 512 tokens, then fewer, but at least three if there are three."""
        return max(min(3, self.repetitions), self.repetitions * 512 // max(length, 512))

    def stages(self, limits: float, cold: float, load: float, token: float, step: float) -> list[Stage]:
        """Return the remaining stages after the first cold runs, in order.

        Args:
            limits, cold, load: seconds taken by measuring the machine, by the first cold runs, and by one loading.
            token, step: seconds for a prompt token and for a decode step.
        """
        again = range(2, self.cold_runs + 1)
        warm = (self.repetitions + 3) * self.reference * token + (self.jitter_steps + 2 * self.text_steps) * step
        return [
            *(Stage(f"cold prefill and decode, run {run} of {self.cold_runs}", cold) for run in again),
            Stage("loading", load),
            Stage(f"warm prefill of {self.reference} tokens, {self.jitter_steps} decode steps one by one", warm),
            *(
                Stage(f"prompt of {length} tokens, and decode steps after it", self._point_seconds(length, token, step))
                for length in self.prompt_lengths
            ),
            Stage(
                "other options: threads, types of weights and of the KV cache", self._choices_seconds(load, token, step)
            ),
            Stage("the machine's limits again", limits),
        ]

    def _choices_seconds(self, load: float, token: float, step: float) -> float:
        deep = min(self.prompt_lengths[-1], DEEPEST)
        rounds = (self.repetitions + 1) * (self.reference * token + STEPS * step)
        return ALTERNATIVES * (load + 2 * (deep * token + rounds))

    def _point_seconds(self, length: int, token: float, step: float) -> float:
        runs = self.repetitions_of(length) + (length <= UNTIMED_FIRST)
        # Short prompts take more time per token because of the weights, long ones because of attention.
        prefill = max(step, length * token * (1 + length / 8192))
        return runs * prefill + (self.decode_steps + 1) * step


def make_plan(
    context: int,
    n_layers: int,
    lengths: Sequence[int] | None = None,
    repetitions: int | None = None,
    layers: Sequence[int] = (),
    quick: bool = False,
) -> Plan:
    """Return the plan for a model.

    Args:
        context: the model's context length.
        n_layers: the model's number of layers.
        lengths: prompt lengths; None: powers of two up to 4096 that fit the context.
        repetitions: runs of each short prefill; None: 5, or 2 if ``quick``.
        layers: layers whose attention is analysed by part; empty: all.
        quick: fewer runs of every kind.

    Raises:
        PymlError: a length does not fit the context, the model has no such layer, or the context is too short.
    """
    if context < SHORTEST_CONTEXT:
        raise PymlError(f"context: expected at least {SHORTEST_CONTEXT} positions to audit, found {context}")
    decode_steps, jitter_steps = (4, 32) if quick else (12, 200)
    # A short context has less room after the longest prompt.
    decode_steps = max(1, min(decode_steps, context // 16))
    jitter_steps = max(2, min(jitter_steps, context // 4))
    room = context - max(decode_steps, 1) - 1
    if lengths is None:
        fitting = tuple(length for length in (QUICK_LENGTHS if quick else LENGTHS) if length <= room)
        lengths = fitting or (max(1, room),)
    for length in lengths:
        if not 1 <= length <= room:
            raise PymlError(
                f"prompt length: expected 1 to {room} (the context holds {context} positions, {decode_steps} decode "
                f"steps follow), got {length}"
            )
    for layer in layers:
        if not 0 <= layer < n_layers:
            raise PymlError(f"layer: expected 0 to {n_layers - 1}, which the model has, got {layer}")
    times = repetitions if repetitions is not None else 2 if quick else 5
    plan = Plan(tuple(sorted(set(lengths))), times, decode_steps, jitter_steps, 1 if quick else 3, tuple(layers))
    steps = min(jitter_steps, context - plan.reference - 1)
    return Plan(plan.prompt_lengths, times, decode_steps, steps, plan.cold_runs, plan.layers)


def parse_numbers(text: str) -> tuple[int, ...]:
    """Parse ``"16,64,256"`` or ``"0,4-7"`` as ascending numbers. Raises ValueError for other texts."""
    numbers: set[int] = set()
    for piece in text.split(","):
        first, dash, last = piece.strip().partition("-")
        start, stop = int(first), int(last if dash else first)
        if start < 0 or stop < start or stop - start > 1 << 16:
            raise ValueError(text)
        numbers.update(range(start, stop + 1))
    return tuple(sorted(numbers))
