"""The errors of this package, and the format of values in their messages."""

from __future__ import annotations

import math
import numbers
from collections.abc import Collection
from typing import Any

from pyml_core.errors import PymlError


class ConfigError(PymlError, ValueError):
    """A configuration that is malformed, out of range, or not supported."""


class WeightsError(PymlError):
    """Weights that do not fit the model: missing, unknown, or of another shape."""


class ContextOverflowError(PymlError):
    """A call needs more positions than a cache may have; nothing has been computed."""


class CacheFileError(PymlError):
    """A saved cache that is damaged or belongs to another model, type or CPU level."""


def as_float(value: numbers.Real) -> float:
    """Return a number as a float; NaN, which is in no range, if it is too large."""
    try:
        return float(value)
    except OverflowError:
        return math.nan


def show(value: Any) -> str:
    """Format any value for a message, in a few words."""
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
