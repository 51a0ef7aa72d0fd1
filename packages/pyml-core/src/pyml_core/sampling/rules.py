"""The rules by which a token is chosen, and their values."""

from __future__ import annotations

from dataclasses import dataclass

RULES = (
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
"""Names of all rules; native code numbers them in this order."""

PENALTIES = frozenset({"repetition_penalty", "frequency_penalty", "presence_penalty"})
"""The rules that depend on the tokens of the text."""


@dataclass(frozen=True)
class SamplingRules:
    """How a token is chosen. ``pyml_nlp.SamplingOptions`` describes each rule; values are not checked here.

    Attributes:
        order: names of the rules in use, in the order in which they are applied. Values of others have no effect.
        greedy: take the largest logit after the rules, instead of a draw.
        logit_bias: (token id, amount), ids ascending, each once.
        seed: of the noise, 0 .. 2**64 - 1.
    """

    order: tuple[str, ...] = ()
    greedy: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int = 0

    @property
    def penalised(self) -> bool:
        """Whether the choice depends on the tokens of the text."""
        return not PENALTIES.isdisjoint(self.order)
