"""Time inside a model's program, for the share of a step that is spent outside of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..language_model import LanguageModel


class Stopwatch:
    """Measures the time inside a program's runs, within a ``with`` block; one that another one begins counts once.

    Attributes:
        seconds: their sum.
    """

    def __init__(self, lm: LanguageModel) -> None:
        self.seconds = 0.0
        self._inside = False
        self._program = lm.model.program
        self._names = [name for name in dir(type(self._program)) if name.startswith("run")]

    def __enter__(self) -> Stopwatch:
        for name in self._names:
            setattr(self._program, name, self._timed(getattr(self._program, name)))
        return self

    def __exit__(self, *_: object) -> None:
        for name in self._names:
            delattr(self._program, name)

    def _timed(self, run: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            if self._inside:
                return run(*arguments, **options)
            self._inside, start = True, time.perf_counter()
            try:
                return run(*arguments, **options)
            finally:
                self._inside = False
                self.seconds += time.perf_counter() - start

        return timed
