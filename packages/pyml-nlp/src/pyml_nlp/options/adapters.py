"""Adapters (LoRA) to load with a model: their files, names and scales."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pyml_core.errors import quoted
from pyml_nn.adapters import MAX_ADAPTERS

from ..errors import ArgumentError
from ..values import is_list, number, text

MAX_NAME = 100
"""Maximum number of characters of a name."""


class AdapterFile(NamedTuple):
    """An adapter to load.

    Attributes:
        path: a PEFT folder, or a GGUF file.
        name: by which texts choose it; empty: the name of the folder, or of the file without ``.gguf``.
        scale: factor of its changes, in addition to its own.
    """

    path: str
    name: str = ""
    scale: float = 1.0


Adapters = (
    Sequence[str | os.PathLike[str] | tuple[str | os.PathLike[str], float] | AdapterFile]
    | Mapping[str, str | os.PathLike[str] | tuple[str | os.PathLike[str], float]]
)
"""Adapters to load: paths, or pairs of a path and a scale; or a dictionary of these by name."""


def adapter_files(value: Any) -> tuple[AdapterFile, ...]:
    """Return the adapters of any form of :data:`Adapters`, with their names.

    Raises:
        ArgumentError: a value of another type, a scale that is not finite, too many adapters, or two of one name.
    """
    if not isinstance(value, Mapping) and (not is_list(value) or isinstance(value, AdapterFile)):
        raise ArgumentError(f"must be a list or dictionary of paths, got {quoted(value)}", "adapters")
    named = list(value.items()) if isinstance(value, Mapping) else [("", item) for item in value]
    if len(named) > MAX_ADAPTERS:
        raise ArgumentError(f"must be at most {MAX_ADAPTERS}, got {len(named)}", "adapters")
    found = tuple(_adapter(name, item) for name, item in named)
    names = [adapter.name for adapter in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ArgumentError(f"must have names of their own, got {quoted(twice)} twice", "adapters")
    return found


def adapter_name(value: Any, argument: str = "adapter") -> str | None:
    """Return the name of an adapter; None stays None. ``argument`` is what messages call it.

    Raises:
        ArgumentError: not a name of 1 to :data:`MAX_NAME` printable characters.
    """
    if value is None:
        return None
    name = text(argument, value)
    if not (0 < len(name) <= MAX_NAME and name.isprintable()):
        raise ArgumentError(f"must be a name of 1 to {MAX_NAME} printable characters, got {quoted(name)}", argument)
    return name


def _adapter(name: Any, item: Any) -> AdapterFile:
    scale: Any = 1.0
    if isinstance(item, AdapterFile):
        item, name, scale = item.path, name or item.name, item.scale
    elif isinstance(item, tuple | list) and len(item) == 2:
        item, scale = item
    if not isinstance(item, str | os.PathLike) or isinstance(item, bytes):
        raise ArgumentError(f"must be paths, or pairs of a path and a scale, got {quoted(item)}", "adapters")
    path = text("adapters", os.fspath(item))
    scale = number("adapters", scale)
    if not path or not math.isfinite(scale):
        raise ArgumentError(f"must be paths and finite scales, got {quoted(path)} with {scale:g}", "adapters")
    full = Path(path).absolute()  # a pickled model finds it from another folder too
    return AdapterFile(str(full), adapter_name(name or full.name.removesuffix(".gguf"), "adapters") or "", scale)
