"""One text as an iterator of its steps: what :meth:`LanguageModel.generate` returns."""

from __future__ import annotations

from pyml_core.pickling import OfOneProcess

from .completion import Completion, Step, html_summary, summary
from .generator import Generator


class Generation(OfOneProcess, instead="send its text, tokens and finish_reason instead"):
    """One text as it is generated: an iterator of its :class:`Step`, and its state so far.

    Attributes:
        completion: prompt, tokens, text, finish reason and times; see :class:`Completion`.
    """

    def __init__(self, generator: Generator, completion: Completion) -> None:
        self.completion = completion
        self._generator = generator
        self._steps = generator.run(completion)

    def __iter__(self) -> Generation:
        return self

    def __next__(self) -> Step:
        return next(self._steps)

    def __repr__(self) -> str:
        return f"<Generation: {summary(self.completion)}>"

    def _repr_html_(self) -> str:
        return html_summary("Generation", self.completion)

    def read(self) -> str:
        """Generate the rest of the text, and return all of it, from its first token.

        Raises:
            PymlError: the error that ended the text.
        """
        for _ in self:
            pass
        return self.text

    @property
    def seed(self) -> int | None:
        """The seed in use; None where the most probable token is always taken."""
        return self.completion.options.sampling.seed

    @property
    def text(self) -> str:
        """The text so far, in whole characters."""
        return self.completion.text

    @property
    def tokens(self) -> list[int]:
        """Token ids so far."""
        return self.completion.tokens

    @property
    def finish_reason(self) -> str | None:
        """``"stop"``, ``"length"``, ``"timeout"``, ``"cancelled"``, ``"error"``; None while it runs."""
        return self.completion.finish_reason

    def cancel(self) -> None:
        """End the text, keeping the tokens so far; from any thread or signal handler."""
        self._generator.cancel()
