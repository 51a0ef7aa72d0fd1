"""A limit for the work that the parts of a tokenizer.json do for each character of a text.

The parts come from a model file, and the library cannot be interrupted while it runs them. So their work is counted
when the file is loaded, in steps of ten to thirty nanoseconds, and a file with more than :data:`MAX_STEPS` is refused.
Tokenizers of known models have up to 240.
"""

from __future__ import annotations

from ..errors import ModelFileError

MAX_STEPS = 512
"""Maximum number of steps that all parts of a tokenizer together may take for one character."""

PART_STEPS = 32
"""Steps of any part in addition to those of its expression: scanning and splitting the text."""


class Work:
    """Counts the work of one tokenizer, part by part in the order in which they run.

    Args:
        label: the file, for messages.
    """

    def __init__(self, label: str) -> None:
        self._what = label
        self._steps = 0.0
        self._growth = 1.0

    def add(self, steps: int = 0, growth: float = 1.0) -> None:
        """Count a part.

        Args:
            steps: steps of its expression.
            growth: number of characters that it writes for one, which the parts after it process.

        Raises:
            ModelFileError: the parts counted until now take too much work.
        """
        self._growth *= max(1.0, growth)
        self._steps += self._growth * (PART_STEPS + steps)
        if self._steps > MAX_STEPS:
            raise ModelFileError(
                f"{self._what}: normalizer and pre_tokenizer: expected parts that take at most {MAX_STEPS} steps for a"
                f" character of a text, got {self._steps:.0f} or more"
            )
