"""The requirement of every test of a bad file: pyml's own error, on one line, that names the file; nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pyml_core.errors import PymlError


def refused(load: Callable[[Path], object], path: Path, message: str) -> None:
    """``load(path)`` raises a PymlError of one line that begins with the path and matches ``message``."""
    with pytest.raises(PymlError) as caught:
        load(path)
    text = str(caught.value)
    assert text.startswith(str(path.parent))
    assert "\n" not in text
    assert text.isprintable()
    assert len(text) < 700 + len(str(path))
    assert re.search(message, text), text


def loads_or_refuses(load: Callable[[Path], object], path: Path, content: bytes) -> bool:
    """Whether ``content`` loads; if not, the error must be pyml's own and have one line."""
    path.unlink(missing_ok=True)  # much faster than to empty the old file
    path.write_bytes(content)
    try:
        load(path)
    except PymlError as error:
        text = str(error)
        assert "\n" not in text, text
        return False
    return True
