"""A prompt and how to continue it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from pyml_core.errors import quoted

from ..errors import ArgumentError
from ..options.checks import instance
from ..options.generation import GenerationOptions
from ..tokenizer.base import TextError
from ..values import token_ids


@dataclass(frozen=True)
class Request:
    """One text to generate.

    Attributes:
        prompt: token ids, at least one.
        options: how to continue them.

    Raises:
        ArgumentError: a value of the wrong type, or ids out of range.
        TextError: an empty prompt.
    """

    prompt: Sequence[int]
    options: GenerationOptions = field(default_factory=GenerationOptions)

    def __post_init__(self) -> None:
        if isinstance(self.prompt, str):
            raise ArgumentError(f"must be token ids (see lm.ids), got {quoted(self.prompt)}", "prompt")
        object.__setattr__(self, "prompt", token_ids("prompt", self.prompt))
        instance("options", self.options, GenerationOptions)
        if not self.prompt:
            raise TextError("the prompt is empty: expected at least one token")

    def seeded(self) -> Request:
        """The same request, with a random seed if it needs one and has none."""
        options = self.options.seeded()
        return self if options is self.options else replace(self, options=options)
