"""How tokens are chosen: the rules, their values, and their order."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pyml_core.errors import quoted
from pyml_core.locks import cached_property
from pyml_core.sampling.rules import PENALTIES as PENALTIES
from pyml_core.sampling.rules import RULES, SamplingRules

from ..errors import ArgumentError
from ..values import choice, number, token_id, whole, without_none
from .checks import given

if TYPE_CHECKING:
    from typing import Unpack

    from .sampling_keywords import SamplingKeywords

GREEDY_BELOW = 1e-7
"""Temperatures below this one take the most probable token."""

ORDER = RULES
"""The rules in the order in which they are applied unless another one is asked for; transformers' order."""

TRUNCATIONS = ("top_k", "top_p", "min_p", "typical_p")
"""The rules that exclude tokens."""

_LARGEST_SEED = (1 << 64) - 1
_ALL_TOKENS = (1 << 31) - 1  # no vocabulary is larger
_RANGES: dict[str, tuple[Callable[[float], bool], str, str]] = {
    "temperature": (lambda value: 0.0 <= value < math.inf, "a finite number >= 0.0", ""),
    "top_p": (lambda value: 0.0 < value <= 1.0, "in (0.0, 1.0]", " (1 is off)"),
    "typical_p": (lambda value: 0.0 < value <= 1.0, "in (0.0, 1.0]", " (1 is off)"),
    "min_p": (lambda value: 0.0 <= value <= 1.0, "in [0.0, 1.0]", " (0 is off)"),
    "repetition_penalty": (lambda value: 0.0 < value < math.inf, "a finite number > 0.0", " (1 is off)"),
    "frequency_penalty": (math.isfinite, "a finite number", ""),
    "presence_penalty": (math.isfinite, "a finite number", ""),
}
"""By name: the test of a number, and the words of the error. NaN is out of every range."""

_NEUTRAL = {
    "logit_bias": (None, {}), "repetition_penalty": (None, 1.0), "frequency_penalty": (None, 0.0),
    "presence_penalty": (None, 0.0), "temperature": (1.0,), "top_k": (None,), "top_p": (None, 1.0),
    "min_p": (None, 0.0), "typical_p": (None, 1.0),
}  # fmt: skip


@dataclass(frozen=True)
class SamplingOptions:
    """How tokens are chosen. Without arguments: from the model's own distribution, unchanged.

    None and the value in parentheses switch a rule off.

    Attributes:
        temperature: logits are divided by it. Below 1e-7 the most probable token is taken, after bias and penalties.
        top_k: keep the k most probable tokens, and those tied with the last of them (0).
        top_p: keep the fewest most probable tokens whose probabilities reach this sum (1).
        repetition_penalty: above 1, tokens of the prompt and of the text become less likely (1). See
            :func:`.penalize_repetition`.
        seed: of the noise, 0 .. 2**64 - 1. None: one from the operating system, see :meth:`seeded`.
        min_p: keep the tokens that are at least this many times as probable as the most probable one (0).
        typical_p: keep the fewest most typical tokens whose probabilities reach this sum (1). See
            :func:`.typical_ids`.
        frequency_penalty: subtracted from a token's logit for each occurrence in the text (0).
        presence_penalty: subtracted from a token's logit once, if it occurs in the text (0).
        logit_bias: by token id, a number to add to its logit; minus infinity excludes the token.
        order: names of rules in the order in which they are applied; it must name all that are in use. None:
            :data:`ORDER`.

    Values are converted once, here: NumPy's scalars to Python's numbers, decimal strings in ``logit_bias`` to token
    ids, None to the default, and what other engines write for None: ``top_k`` 0 or -1, ``seed`` -1.

    Raises:
        ArgumentError: a value of the wrong type or out of its range.
    """

    temperature: float = 1.0
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
        for name, value in _plain(without_none(self)).items():
            object.__setattr__(self, name, value)

    def replace(self, **changes: Unpack[SamplingKeywords]) -> SamplingOptions:
        """A copy with some fields changed; None leaves a field as it is.

        A new ``order`` switches off the rules that it does not name, unless they are changed in the same call.

        Raises:
            ArgumentError: an unknown name, or a value of the wrong type or out of its range.
        """
        new = given(changes, SAMPLING)
        order = new.get("order")
        if isinstance(order, list | tuple):
            unnamed = [name for name in _used(self.__dict__) if name not in order and name not in new]
            new |= {name: _NEUTRAL[name][0] for name in unnamed}
        return replace(self, **new)

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is taken."""
        return self.temperature < GREEDY_BELOW

    @cached_property
    def rules(self) -> tuple[str, ...]:
        """Names of the rules in use, in their order; a greedy choice needs no truncation."""
        used = _used(self.__dict__)
        return tuple(name for name in self.order or ORDER if name in used)

    @cached_property
    def required_top_k(self) -> int | None:
        """Number of the largest logits that decide, with those tied with the last of them; None: all logits."""
        first = [name for name in self.rules if name != "temperature"][:1]
        if self.greedy:
            return None if first else 1
        if first != ["top_k"] or not set(self.rules) <= {"temperature", *TRUNCATIONS}:
            return None
        return self.top_k

    @cached_property
    def core_rules(self) -> SamplingRules:
        """The same as :class:`pyml_core.sampling.SamplingRules`, without None; no seed is 0."""
        values = {name: getattr(self, name) for name in self.rules if name != "logit_bias"}
        if "top_k" in values:
            values["top_k"] = min(values["top_k"], _ALL_TOKENS)
        if "logit_bias" in self.rules:
            values["logit_bias"] = tuple(sorted((self.logit_bias or {}).items()))
        return SamplingRules(self.rules, self.greedy, seed=self.seed or 0, **values)

    def seeded(self) -> SamplingOptions:
        """The same options with a seed: the given one, or a new random one. Greedy options need none."""
        if self.greedy or self.seed is not None:
            return self
        return replace(self, seed=int.from_bytes(os.urandom(6), "little"))

    def __str__(self) -> str:
        """The values in effect, such as ``temperature=0.8 top_p=0.95 seed=7``."""
        if self.greedy:
            shown = ["greedy", *(f"{name}={getattr(self, name)}" for name in self.rules)]
        else:
            names = dict.fromkeys(("temperature", *self.rules, *(["seed"] if self.seed is not None else [])))
            shown = [f"{name}={getattr(self, name)}" for name in names]
        return " ".join(shown)


SAMPLING = frozenset(SamplingOptions.__dataclass_fields__)
"""The keywords of :meth:`SamplingOptions.replace`."""


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values, checked and converted."""
    found: dict[str, Any] = dict(values)
    for name, (right, expected, hint) in _RANGES.items():
        if found[name] is not None:
            found[name] = number(name, found[name])
            if not right(found[name]):
                raise ArgumentError(f"must be {expected}, got {found[name]:g}{hint}", name)
    if values["top_k"] is not None:
        found["top_k"] = _top_k(values["top_k"])
    if values["seed"] is not None:
        found["seed"] = _seed(values["seed"])
    if values["logit_bias"] is not None:
        found["logit_bias"] = _biases(values["logit_bias"])
    if values["order"] is not None:
        found["order"] = _order(values["order"], found)
    return found


def _top_k(value: Any) -> int | None:
    found = whole("top_k", value)
    if found < -1:
        raise ArgumentError(f"must be > 0, got {quoted(found)} (0 and -1 are off)", "top_k")
    return found if found > 0 else None


def _seed(value: Any) -> int | None:
    found = whole("seed", value)
    if not -1 <= found <= _LARGEST_SEED:
        raise ArgumentError(f"must be in 0 .. 2**64 - 1, got {quoted(found)} (-1 is random)", "seed")
    return found if found >= 0 else None


def _biases(value: Any) -> dict[int, float]:
    if not isinstance(value, Mapping):
        raise ArgumentError(f"must be token ids with numbers, such as {{13: -2.5}}, got {quoted(value)}", "logit_bias")
    found: dict[int, float] = {}
    for key, amount in value.items():
        token = token_id("logit_bias", int(key) if _is_decimal(key) else key)
        bias = number("logit_bias", amount)
        if math.isnan(bias) or bias == math.inf:
            raise ArgumentError(f"must be a number below infinity, got {bias:g} for token {token}", "logit_bias")
        if token in found:
            raise ArgumentError(f"must name each token once, got {token} twice", "logit_bias")
        found[token] = bias
    return found


def _is_decimal(key: object) -> bool:
    """Whether it is a token id as in JSON, whose keys are strings."""
    return isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 20


def _order(value: Any, values: Mapping[str, Any]) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise ArgumentError(f"must be a list of names, got {quoted(value)}", "order")
    order = tuple(choice("order", name, ORDER) for name in value)
    if len(set(order)) < len(order):
        raise ArgumentError(f"must name each rule once, got {quoted(', '.join(order))}", "order")
    used = _used(values)
    missing = [name for name in ORDER if name in used and name not in order]
    if missing:
        raise ArgumentError(f"must name all rules in use, {', '.join(missing)} missing", "order")
    return order


def _used(values: Mapping[str, Any]) -> set[str]:
    """The rules whose values change something; a greedy choice needs no truncation."""
    used = {name for name in ORDER if values[name] not in _NEUTRAL[name]}
    return used - {"temperature", *TRUNCATIONS} if values["temperature"] < GREEDY_BELOW else used
