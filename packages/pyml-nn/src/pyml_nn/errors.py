"""The errors of this package, and how their messages show a value."""

from __future__ import annotations

import math
import numbers
from collections.abc import Collection
from typing import Any

from pyml_core.errors import PymlError


class ConfigError(PymlError, ValueError):
    """A configuration that is malformed, out of range, or asks for what pyml does not compute."""


class WeightsError(PymlError):
    """Weights that do not fit the model: missing, left over, or of another shape."""


class ContextOverflowError(PymlError):
    """More positions were asked for than a cache may hold; nothing has been computed."""


class CacheFileError(PymlError):
    """A saved cache that is damaged or belongs to another model, type or CPU level."""


def as_float(value: numbers.Real) -> float:
    """A number as a float; NaN, which no range holds, where it is too large for one."""
    try:
        return float(value)
    except OverflowError:
        return math.nan


def show(value: Any) -> str:
    """A value for a message: short, whatever it is."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, numbers.Integral):
        return str(int(value)) if abs(int(value)) < 1 << 64 else "an integer of more than 64 bits"
    if isinstance(value, numbers.Real):
        return f"{as_float(value):g}"
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:57] + "...")
    if isinstance(value, Collection) and not len(value):
        return f"an empty {type(value).__name__}"
    return f"a {type(value).__name__}"
