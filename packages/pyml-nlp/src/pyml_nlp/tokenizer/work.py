"""How much work the parts of a tokenizer.json may be for each character of a text.

A model's file chooses the parts, and the library runs them to the end. So their work is counted when the file is
loaded, in steps of ten to thirty nanoseconds, and a file with more than :data:`MAX_STEPS` is refused. Tokenizers of
known models have up to 240.
"""

from __future__ import annotations

from ..errors import ModelFileError

MAX_STEPS = 512
"""Steps that all parts of a tokenizer may take for one character, together."""

PART_STEPS = 32
"""Steps of any part, besides those of its expression: looking at the text and cutting it."""


class Work:
    """The work of one tokenizer, counted part by part in the order in which they run.

    Args:
        what: the file, for messages.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._steps = 0.0
        self._growth = 1.0

    def add(self, steps: int = 0, growth: float = 1.0) -> None:
        """Count a part.

        Args:
            steps: those of its expression.
            growth: how many characters it makes of one, for the parts after it.

        Raises:
            ModelFileError: the parts so far are too much work.
        """
        self._growth *= max(1.0, growth)
        self._steps += self._growth * (PART_STEPS + steps)
        if self._steps > MAX_STEPS:
            raise ModelFileError(
                f"{self._what}: normalizer and pre_tokenizer: expected parts that take at most {MAX_STEPS} steps for a"
                f" character of a text, got {self._steps:.0f} or more"
            )
