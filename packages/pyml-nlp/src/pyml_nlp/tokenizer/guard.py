"""Calls into the tokenizer libraries: their exceptions become one line.

``tokenizers`` is written in Rust. Invalid input can cause a panic, which Python sees as a ``BaseException``, so every
call is guarded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pyml_core.errors import PymlError

from ..errors import ModelFileError


@contextmanager
def guarded(label: str, error_type: type[PymlError] = ModelFileError) -> Iterator[None]:
    """Turn every exception of the library, including panics, into one line that begins with ``label``."""
    try:
        yield
    except PymlError:
        raise
    except Exception as error:
        raise error_type(f"{label}: {first_line(error)}") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise error_type(f"{label}: {first_line(error)}") from None


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, bounded and printable."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
    return line if line.isprintable() else ascii(line)[1:-1]
