"""The names of packed models, and how their files begin."""

from __future__ import annotations

from pathlib import Path

MAGIC = b"PYMLPACK"
SUFFIX = ".pyml"


def is_packed(path: Path) -> bool:
    """Whether a file is a packed model, by its first bytes."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False
