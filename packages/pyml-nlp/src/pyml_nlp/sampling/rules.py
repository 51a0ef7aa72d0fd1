"""Which rules there are, their values, and their order."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pyml_core.errors import PymlError
from pyml_core.locks import cached_property

GREEDY_BELOW = 1e-7
"""Temperatures below this one take the most probable token."""

ORDER = (
    "logit_bias",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
)
"""The rules in the order in which they are applied unless another one is asked for; transformers' order."""

PENALTIES = frozenset({"repetition_penalty", "frequency_penalty", "presence_penalty"})
"""Those of them that have to know which tokens a text has."""

TRUNCATIONS = ("top_k", "top_p", "min_p", "typical_p")
"""Those of them that take tokens out of play."""

_LARGEST_SEED = (1 << 64) - 1
_NEUTRAL = {
    "logit_bias": (None, {}), "repetition_penalty": (None, 1.0), "frequency_penalty": (None, 0.0),
    "presence_penalty": (None, 0.0), "temperature": (1.0,), "top_k": (None,), "top_p": (None, 1.0),
    "min_p": (None, 0.0), "typical_p": (None, 1.0),
}  # fmt: skip


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. None, and the value named, switch a rule off.

    Attributes:
        temperature: logits are divided by it; below 1e-7 the most probable token is taken, after bias and penalties.
        top_k: keep the k most probable tokens, and those tied with the last of them.
        top_p: keep the fewest most probable tokens whose probabilities reach this sum; 1.
        repetition_penalty: above 1: tokens of the prompt and of the text are less likely; 1. See
            :func:`.penalize_repetition`.
        seed: of the noise, 0 .. 2**64 - 1. None: one from the operating system, see :meth:`seeded`.
        min_p: keep the tokens that are at least this many times as probable as the most probable one; 0.
        typical_p: keep the fewest most typical tokens whose probabilities reach this sum; 1. See :func:`.typical_ids`.
        frequency_penalty: what each occurrence of a token in the text takes off its logit; 0.
        presence_penalty: what any occurrence of a token in the text takes off its logit, once; 0.
        logit_bias: by token id, what is added to its logit; minus infinity takes it out of play.
        order: names of rules in the order in which they are applied: at least all that are in use. None: :data:`ORDER`.

    Raises:
        PymlError: a value out of its range.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    min_p: float | None = None
    typical_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: Mapping[int, float] | None = None
    order: Sequence[str] | None = None

    def __post_init__(self) -> None:
        for name, problem in sampling_problems(**self.__dict__):
            raise PymlError(f"{name} {problem}")

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is taken."""
        return self.temperature < GREEDY_BELOW

    @cached_property
    def rules(self) -> tuple[str, ...]:
        """Names of the rules that do something, in their order; a greedy choice needs no truncation."""
        used = _used(self.__dict__)
        return tuple(name for name in self.order or ORDER if name in used)

    @cached_property
    def candidates(self) -> int | None:
        """How many of the largest logits decide, with those tied with the last of them; None: any of them may."""
        first = [name for name in self.rules if name != "temperature"][:1]
        if self.greedy:
            return None if first else 1
        if first != ["top_k"] or not set(self.rules) <= {"temperature", *TRUNCATIONS}:
            return None
        return self.top_k

    def seeded(self) -> Sampling:
        """The same with a seed: this one's, or a new random one."""
        if self.seed is not None:
            return self
        return replace(self, seed=int.from_bytes(os.urandom(6), "little"))


def sampling_problems(
    *,
    temperature: float = 0.0,
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
) -> Iterable[tuple[str, str]]:
    """Yield (name, what is wrong) for every value of a :class:`Sampling` out of its range; NaN is out of every one."""
    values = dict(locals())
    if not 0.0 <= temperature < math.inf:
        yield "temperature", f"must be >= 0.0, got {temperature:g}"
    if top_k is not None and top_k < 1:
        yield "top_k", f"must be > 0, got {top_k}"
    for name, share in {"top_p": top_p, "typical_p": typical_p}.items():
        if share is not None and not 0.0 < share <= 1.0:
            yield name, f"must be in (0.0, 1.0], got {share:g}"
    if min_p is not None and not 0.0 <= min_p <= 1.0:
        yield "min_p", f"must be in [0.0, 1.0], got {min_p:g}"
    if repetition_penalty is not None and not 0.0 < repetition_penalty < math.inf:
        yield "repetition_penalty", f"must be > 0.0, got {repetition_penalty:g}"
    for name, penalty in {"frequency_penalty": frequency_penalty, "presence_penalty": presence_penalty}.items():
        if penalty is not None and not math.isfinite(penalty):
            yield name, f"must be a finite number, got {penalty:g}"
    if seed is not None and not 0 <= seed <= _LARGEST_SEED:
        yield "seed", f"must be in 0 .. 2**64 - 1, got {seed}"
    for token, bias in (logit_bias or {}).items():
        if token < 0:
            yield "logit_bias", f"must be of token ids, got {token}"
        if math.isnan(bias) or bias == math.inf:
            yield "logit_bias", f"must be below infinity, got {bias:g} for token {token}"
    if order is not None:
        yield from _order_problems(order, values)


def _order_problems(order: Sequence[str], values: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    for name in order:
        if name not in ORDER:
            yield "order", f"must be of {', '.join(ORDER)}, got {name}"
    if len(set(order)) < len(order):
        yield "order", f"must name each rule once, got {', '.join(order)}"
    missing = [name for name in ORDER if name in _used(values) and name not in order]
    if missing:
        yield "order", f"must name all rules in use, {', '.join(missing)} missing"


def _used(values: Mapping[str, Any]) -> set[str]:
    """The rules whose values change something; a greedy choice needs no truncation."""
    used = {name for name in ORDER if values[name] not in _NEUTRAL[name]}
    return used - {"temperature", *TRUNCATIONS} if values["temperature"] < GREEDY_BELOW else used
