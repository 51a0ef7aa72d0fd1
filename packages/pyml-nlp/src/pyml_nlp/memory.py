"""Checks that work fits into memory (see :func:`pyml_nn.memory.available_memory`)."""

from __future__ import annotations

import ctypes

from pyml_core.errors import OutOfMemoryError
from pyml_nn.memory import available_memory


def free_bytes() -> int:
    """Bytes that this process can still allocate."""
    return available_memory()


def require(needed: int, purpose: str, available: int | None = None) -> None:
    """Check that ``needed`` bytes are available; None: as many as the system says now.

    Raises:
        OutOfMemoryError: with both figures, and the purpose.
    """
    available = free_bytes() if available is None else available
    if needed > available:
        raise OutOfMemoryError(f"{purpose} needs {gigabytes(needed)} of memory, {gigabytes(available)} are available")


def give_back() -> None:
    """Return freed memory to the system: glibc keeps freed blocks below 32 MB, the size of most matrices."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only; other C libraries do not need it
    if trim is not None:
        trim(0)


def gigabytes(count: int) -> str:
    """Format a number of bytes: ``1.23 GB``, ``456.7 MB``."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
