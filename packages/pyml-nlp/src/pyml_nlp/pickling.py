"""Pickling of models and tokenizers: as the path that they were loaded from.

They are loaded again when they are unpickled. A fingerprint ensures that the result is the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyml_core.errors import PymlError

from .errors import ModelFileError

if TYPE_CHECKING:
    from .engine import Engine
    from .options.load import LoadOptions
    from .tokenizer import Tokenizer


@dataclass(frozen=True)
class Origin:
    """Origin of a loaded model.

    Attributes:
        path: absolute path of its file or folder.
        name: its name in messages.
        options: the options that it was loaded with.
    """

    path: Path
    name: str
    options: LoadOptions


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
    return _load_model, (origin, _fingerprint(engine))


def reduce_tokenizer(tokenizer: Tokenizer) -> tuple[Any, ...]:
    """Implement ``__reduce__`` of a tokenizer.

    Raises:
        PymlError: the tokenizer was not loaded from files.
    """
    if tokenizer.path is None:
        raise PymlError("tokenizer: it was not loaded from a path and cannot be pickled: make it in each process")
    return _load_tokenizer, (tokenizer.path, tokenizer.fingerprint)


def _load_model(origin: Origin, fingerprint: str) -> object:
    from .loading import load

    lm = load(origin.path, origin.options)
    if _fingerprint(lm.engine) != fingerprint:
        lm.close()
        raise _changed(origin.path, "model")
    lm.name = origin.name
    return lm


def _load_tokenizer(path: Path, fingerprint: str) -> Tokenizer:
    from .tokenizer import load_tokenizer

    tokenizer = load_tokenizer(path)
    if tokenizer.fingerprint != fingerprint:
        raise _changed(path, "tokenizer")
    return tokenizer


def _fingerprint(engine: Engine) -> str:
    return f"{engine.model.fingerprint} {engine.tokenizer.fingerprint}"


def _changed(path: Path, kind: str) -> ModelFileError:
    return ModelFileError(f"{path}: expected the {kind} that was pickled, got another one: load it and pickle it anew")
