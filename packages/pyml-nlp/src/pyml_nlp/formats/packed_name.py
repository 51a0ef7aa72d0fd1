"""The names of packed models, and how their files begin."""

from __future__ import annotations

from pathlib import Path

MAGIC = b"PYMLPACK"
SUFFIX = ".pyml"


def is_packed(path: Path) -> bool:
    """Whether a file is a packed model, by its first bytes. Pipes and devices are not opened."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False
