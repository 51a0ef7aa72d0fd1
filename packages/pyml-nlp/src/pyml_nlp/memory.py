"""The refusal of what would not fit in memory (see :func:`pyml_nn.memory.available_memory`)."""

from __future__ import annotations

from pyml_core.errors import OutOfMemoryError
from pyml_nn.memory import available_memory


def require(needed: int, what: str) -> None:
    """Refuse ``what`` if it needs more bytes than there are.

    Raises:
        OutOfMemoryError: with both figures.
    """
    available = available_memory()
    if needed > available:
        raise OutOfMemoryError(f"{what} needs {gigabytes(needed)} of memory, {gigabytes(available)} are available")


def give_back() -> None:
    """Return what was freed to the system. glibc keeps pieces below 32 MB for later, which most matrices are."""
    import ctypes

    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have none, and need none
    if trim is not None:
        trim(0)


def gigabytes(count: int) -> str:
    """A number of bytes for people: ``1.23 GB``, ``456.7 MB``."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
