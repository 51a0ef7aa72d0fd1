"""Runs of a scripted model that are held or watched, for tests of submitted texts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from fake_model import calls

from pyml_nlp.generation.text_stream import TextStream
from pyml_nlp.language_model import LanguageModel

PATIENCE = 60.0
ONE: dict[str, Any] = {"temperature": 0, "speculate": False, "logits_processor": lambda ids, logits: logits}
"""Options of a text with one run in each call of the model."""


def at_runs(lm: LanguageModel, actions: dict[int, Callable[[], object]], held: bool = False) -> threading.Event:
    """Do something in the thread of the server before its run of this number, the first being 0.

    ``held``: the runs begin when the event that is returned is set.
    """
    model: Any = lm.model
    go = threading.Event()
    if not held:
        go.set()

    def before() -> None:
        assert go.wait(PATIENCE)
        actions.pop(len(calls(lm)), lambda: None)()

    model.before = before
    return go


class Gate:
    """Holds the runs of a model until they are let go.

    Args:
        lm: the model.
        free: how many runs pass before the first is held.
    """

    def __init__(self, lm: LanguageModel, free: int = 0) -> None:
        self.held = threading.Event()
        self._open = threading.Event()
        self._free = free
        model: Any = lm.model
        model.before = self._hold

    def _hold(self) -> None:
        self._free -= 1
        if self._free < 0 and not self._open.is_set():
            self.held.set()
            assert self._open.wait(PATIENCE)

    def wait(self) -> None:
        """Until a run is held."""
        assert self.held.wait(PATIENCE)

    def open(self) -> None:
        """Let every run go, from now on."""
        self._open.set()


def text(stream: TextStream) -> str:
    return stream.result(PATIENCE).text
