"""What a text is to be: its prompt, how long it may get, and how its tokens are chosen."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pyml_core.errors import PymlError, quoted

from ..errors import ArgumentError
from ..sampling import Sampling
from ..structured.grammar import Grammar
from ..values import choice, flag, texts, token_id, token_ids, whole, without_none
from .rolling import ERROR, POLICIES


@dataclass(frozen=True)
class Request:
    """One text that is wanted.

    Attributes:
        prompt: token ids, at least one.
        max_tokens: most tokens of the text; an end-of-sequence token counts.
        sampling: how its tokens are chosen.
        logprobs: None, or how many of the most probable tokens each step reports besides its own token's log
            probability.
        sample: which of several texts of the same prompt and seed: part of the key of the sampling noise.
        stop: strings that end the text, which does not have them; see :class:`.StopStrings`.
        stop_ids: token ids that end the text as an end-of-sequence token does.
        include_stop: whether the text has the stop string that ends it.
        grammar: what the text has to match; None: anything.
        overflow: what happens at the end of the context: ``"error"`` refuses a prompt that does not fit and ends a text
            there; ``"roll"`` forgets the older half of what stands there, see :mod:`.rolling`.
        keep: how many tokens at the beginning a rolling context never forgets; None: a beginning-of-sequence token.

    Values are converted once, here: NumPy's scalars to Python's, lists to tuples, None to the default.

    Raises:
        ArgumentError: a value of a wrong type or out of its range.
        PymlError: an empty prompt.
    """

    prompt: Sequence[int]
    max_tokens: int = 64
    sampling: Sampling = field(default_factory=Sampling)
    logprobs: int | None = None
    sample: int = 0
    stop: Sequence[str] = ()
    stop_ids: Collection[int] = ()
    include_stop: bool = False
    grammar: Grammar | None = None
    overflow: str = ERROR
    keep: int | None = None

    def __post_init__(self) -> None:
        own = without_none(self)
        if isinstance(own["prompt"], str):
            raise ArgumentError(f"must be token ids (see lm.ids), got {quoted(own['prompt'])}", "prompt")
        for name, kind in (("sampling", Sampling), ("grammar", Grammar | None)):
            if not isinstance(own[name], kind):
                raise ArgumentError(f"must be a {name.capitalize()}, got {quoted(own[name])}", name)
        own |= {
            "prompt": token_ids("prompt", own["prompt"]),
            "max_tokens": whole("max_tokens", own["max_tokens"], 0),
            "logprobs": None if self.logprobs is None else whole("logprobs", self.logprobs, 0),
            "sample": whole("sample", own["sample"], 0),
            "stop": texts("stop", own["stop"]),
            "stop_ids": _stop_ids(own["stop_ids"]),
            "include_stop": flag("include_stop", own["include_stop"]),
            "overflow": choice("overflow", own["overflow"], POLICIES),
            "keep": None if self.keep is None else whole("keep", self.keep, 0),
        }
        if not own["prompt"]:
            raise PymlError("the prompt is empty: expected at least one token")
        for name, value in own.items():
            object.__setattr__(self, name, value)

    @property
    def candidates(self) -> int | None:
        """How many of the largest logits are enough to go on, with those tied with the last of them; None: all."""
        return self.sampling.candidates if self.logprobs is None and self.grammar is None else None

    def seeded(self) -> Request:
        """The same, with a random seed where one is needed and none was given."""
        return self if self.sampling.greedy else replace(self, sampling=self.sampling.seeded())


def _stop_ids(value: Any) -> tuple[int, ...]:
    if not isinstance(value, Iterable) or isinstance(value, str | bytes | Mapping):
        raise ArgumentError(f"must be a list of token ids, got {quoted(value)}", "stop_ids")
    return tuple(token_id("stop_ids", token) for token in value)
