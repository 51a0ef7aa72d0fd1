"""What a text is to be: its prompt, how long it may get, and how its tokens are chosen."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from pyml_core.errors import PymlError

from ..sampling import Sampling
from ..structured.grammar import Grammar
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

    Raises:
        PymlError: an empty prompt, or a number out of its range.
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
        if not self.prompt:
            raise PymlError("the prompt is empty: expected at least one token")
        if self.max_tokens < 0:
            raise PymlError(f"max_tokens must be >= 0, got {self.max_tokens}")
        if self.logprobs is not None and self.logprobs < 0:
            raise PymlError(f"logprobs must be >= 0, got {self.logprobs}")
        if self.sample < 0:
            raise PymlError(f"sample must be >= 0, got {self.sample}")
        if self.overflow not in POLICIES:
            raise PymlError(f"overflow: expected one of {', '.join(POLICIES)}, got {self.overflow!r}")
        if self.keep is not None and self.keep < 0:
            raise PymlError(f"keep must be >= 0, got {self.keep}")
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        if not all(self.stop):
            raise PymlError("stop: expected strings of one character or more, got an empty one")

    @property
    def candidates(self) -> int | None:
        """How many of the largest logits are enough to go on, with those tied with the last of them; None: all."""
        return self.sampling.candidates if self.logprobs is None and self.grammar is None else None

    def seeded(self) -> Request:
        """The same, with a random seed where one is needed and none was given."""
        return self if self.sampling.greedy else replace(self, sampling=self.sampling.seeded())
