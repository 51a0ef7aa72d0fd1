"""Check that the compiled module was built from the sources next to it. Used by the build hook and at import."""

from __future__ import annotations

import hashlib
from pathlib import Path

_SUFFIXES = (".c", ".h", ".def", ".inc", ".pyx", ".pxd", ".pxi")


def source_hash(package: Path) -> str | None:
    """Return the SHA-256 (64 hex digits) of all C and Cython sources of the compiled module, sorted by path.

    The ``ladder`` folder is left out, because only tests compile it. Without a ``csrc`` folder, as in an installed
    wheel, return None: nothing can be out of date there.
    """
    if not (package / "csrc").is_dir():
        return None
    digest = hashlib.sha256()
    sources = (path for path in package.rglob("*") if path.suffix in _SUFFIXES and path.parent.name != "ladder")
    for path in sorted(sources):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(package).as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def check(built_from: str) -> None:
    """Raise ImportError if the hash of the sources next to this file is not ``built_from``."""
    current = source_hash(Path(__file__).parent)
    if current is not None and current != built_from:
        raise ImportError(
            "pyml_core's C or Cython sources have changed since its compiled module was built: "
            "run `hatch run kernels` (or `pip install -e packages/pyml-core`)"
        )
