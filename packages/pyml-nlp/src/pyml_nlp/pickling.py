"""Pickling of models and tokenizers: as the path that they were loaded from.

They are loaded again when they are unpickled. A fingerprint ensures that the result is equal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyml_core.errors import PymlError

if TYPE_CHECKING:
    from .engine import Engine
    from .options.load import LoadOptions


@dataclass(frozen=True)
class Origin:
    """Origin of a loaded model.

    Attributes:
        path: absolute path of its file or folder.
        name: its name in messages.
        options: the options that it was loaded with.
        reload: loads it again from its origin, and checks its :func:`fingerprint`.
    """

    path: Path
    name: str
    options: LoadOptions
    reload: Callable[[Origin, str], object]


def reduce_model(engine: Engine, origin: Origin | None) -> tuple[Any, ...]:
    """Implement ``__reduce__`` of a model.

    Raises:
        PymlError: the model is closed, or was not loaded from files.
    """
    engine.check_open()
    if origin is None:
        raise PymlError(
            f"model {engine.name}: it was not loaded from a path and cannot be pickled: make it in each process"
        )
    return origin.reload, (origin, fingerprint(engine))


def fingerprint(engine: Engine) -> str:
    """Identify a model and its tokenizer by their contents."""
    return f"{engine.model.fingerprint} {engine.tokenizer.fingerprint}"
