"""Checks of arguments of :class:`LanguageModel`'s methods, before any work is done."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pyml_core.errors import quoted
from pyml_core.want import Want
from pyml_nn import KVCache

from .errors import ArgumentError
from .stages import TOKENISE, stage
from .tokenizer.base import TextError
from .values import check_ids, is_list, token_ids, whole

if TYPE_CHECKING:
    from .engine import Engine

Prompt = str | Sequence[int] | npt.NDArray[np.integer[Any]]
"""A text, or token ids as the model wants them (beginning-of-sequence token included)."""


def prompt_ids(engine: Engine, name: str, value: Any) -> list[int]:
    """Return the token ids of a text, with the model's special tokens around it; or the given ids.

    Raises:
        ArgumentError: ``value`` is neither a text nor token ids, or the model does not have one of them.
        TextError: the text cannot be encoded.
    """
    if isinstance(value, str):
        with stage(TOKENISE):
            return engine.tokenizer.encode_prompt(value)
    ids = list(token_ids(name, value))
    check_ids(name, ids, engine.vocab_size)
    return ids


def prompt_list(value: Any) -> Iterable[Any]:
    """Return the prompts of a batch, which are not checked yet.

    Raises:
        ArgumentError: ``value`` is one prompt, or not iterable.
    """
    if not is_list(value):
        raise ArgumentError(f"must be a list of prompts, got {quoted(value)}; for one prompt: generate", "prompts")
    prompts: Iterable[Any] = value
    return prompts


def indices(name: str, value: Any, count: int) -> list[int]:
    """Return indices below ``count`` as non-negative numbers; negative ones count from the end, None means all.

    Raises:
        ArgumentError: ``value`` is not a list of whole numbers, or one is out of range.
    """
    if value is None:
        return list(range(count))
    if not is_list(value):
        raise ArgumentError(f"must be a list of whole numbers, got {quoted(value)}", name)
    found = [whole(name, index) for index in value]
    for index in found:
        if not -count <= index < count:
            raise ArgumentError(f"must be in {-count} .. {count - 1}, got {quoted(index)}", name)
    return [count + index if index < 0 else index for index in found]


def check_forward(batch: Any, want: Any) -> None:
    """Check the form of the arguments of :meth:`LanguageModel.forward`; the model checks ids and positions.

    Raises:
        ArgumentError: names the first invalid sequence; or ``want`` is invalid.
    """
    if not isinstance(want, Want):
        raise ArgumentError(f"must be AllLogits(), Top(k) or Sample(...) of pyml_core, got {quoted(want)}", "want")
    expected = "must be a list of (cache, ids, positions or None)"
    if not isinstance(batch, Sequence) or isinstance(batch, str | bytes):
        raise ArgumentError(f"{expected}, got {quoted(batch)}", "batch")
    for index, part in enumerate(batch):
        if not isinstance(part, tuple | list) or len(part) != 3:
            raise ArgumentError(f"{expected}, got {quoted(part)} at {index}", "batch")
        if not isinstance(part[0], KVCache):
            raise ArgumentError(f"{expected}, got {quoted(part[0])} for the cache at {index}", "batch")
        token_ids("batch", part[1])
        if part[2] is not None and not is_list(part[2]):
            raise ArgumentError(f"{expected}, got {quoted(part[2])} for the positions at {index}", "batch")


def not_empty(name: str, ids: list[int]) -> list[int]:
    """Return the ids. Raises TextError if the list is empty."""
    if not ids:
        raise TextError(f"the {name} is empty: expected at least one token")
    return ids


def hidden_rows(hidden: Any, width: int) -> npt.NDArray[np.float32]:
    """Return hidden states as float32 (rows, ``width``).

    Raises:
        ArgumentError: ``hidden`` is no array of numbers, or has another shape.
    """
    expected = f"must be an array of numbers of shape (rows, {width})"
    try:
        rows = np.asarray(hidden)
    except ValueError:  # lists of several lengths
        raise ArgumentError(f"{expected}, got {quoted(hidden)}", "hidden") from None
    if rows.dtype.kind not in "fiu":
        raise ArgumentError(f"{expected}, got {quoted(hidden)}", "hidden")
    if rows.ndim != 2 or not len(rows) or rows.shape[1] != width:
        raise ArgumentError(f"{expected}, got one of shape {rows.shape}", "hidden")
    return rows.astype(np.float32)
