"""What decides the bits of a text: the model's files, pyml's build, and the CPU level.

A plan hashes the model's files once. A worker compares sizes and hashes of samples, which takes milliseconds and loads
no weights, and the whole hash when it loads the model. See docs/decisions/0021-jobs.md.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

import numpy as np

import pyml_core
from pyml_core import _native, cpu
from pyml_core.errors import one_line, quoted
from pyml_core.hashing import hash_rows

from ..embedding.settings import module_files
from ..formats.folders import CONFIG, weight_files
from ..formats.gguf import part_names
from ..loading import find
from ..source import Source
from .errors import IdentityError, JobError

BLOCK = 1 << 20
"""Bytes that are hashed at a time."""

SAMPLE = 1 << 16
SAMPLES = 64
"""A sample of a file: its first and last block, and this many pieces of this many bytes at equal distances."""

_SMALL = (".json", ".jinja", ".model", ".txt")  # files of a folder that make texts and prompts
_LONGEST = 250


@dataclass(frozen=True)
class ModelFile:
    """A file of a model.

    Attributes:
        name: its name in a folder; of GGUF files, which may be called anything, the number of the part.
        size: in bytes.
        sample: hash of samples of its bytes.
        digest: hash of all of its bytes.
    """

    name: str
    size: int
    sample: str
    digest: str


@dataclass(frozen=True)
class ModelIdentity:
    """A model as a job wants it.

    Attributes:
        name: as it was given: a path, or a hub id.
        files: its files.
    """

    name: str
    files: tuple[ModelFile, ...]

    @property
    def fingerprint(self) -> str:
        """64 hexadecimal digits that depend on the contents of all files."""
        return sha256(repr([(file.name, file.size, file.digest) for file in self.files]).encode()).hexdigest()


def build() -> str:
    """pyml's version and the sources of its kernels."""
    return f"{pyml_core.__version__}+{_native.SOURCE_HASH[:12]}"


def check_machine(wanted_build: str, wanted_level: str) -> None:
    """Check build and CPU level.

    Raises:
        IdentityError: this process has others.
    """
    if wanted_build != build():
        raise IdentityError(f"the job was planned with pyml {wanted_build}, this is {build()}: its texts would differ")
    if wanted_level != cpu.level():
        advice = (
            f"set PYML_CPU_LEVEL={wanted_level}"
            if wanted_level in cpu.levels()
            else f"this CPU has {', '.join(cpu.levels())}; plan with --cpu-level {cpu.levels()[-1]}"
        )
        raise IdentityError(f"the job was planned for CPU level {wanted_level}, this is {cpu.level()}: {advice}")


def identify(model: str | os.PathLike[str] | None) -> ModelIdentity:
    """Hash the files of a model, which is downloaded if necessary.

    Raises:
        PymlError: it cannot be found or read.
    """
    source = find(model)
    name = source.name if model is None else os.fspath(model)
    if Path(name).expanduser().exists():
        name = str(Path(name).expanduser().absolute())
    elif source.path.exists() and model is None:
        name = str(source.path.absolute())
    files = [ModelFile(label, *_stat(path), _digest(path)) for label, path in _paths(source)]
    return ModelIdentity(name, tuple(files))


def check_model(model: str | os.PathLike[str], wanted: ModelIdentity, whole: bool) -> None:
    """Compare the files of a model with those of a job.

    Args:
        model: where it is on this machine.
        wanted: the job's.
        whole: compare all bytes; False: sizes and samples.

    Raises:
        IdentityError: a file differs. PymlError: the model cannot be found or read.
    """
    paths = dict(_paths(find(model)))
    names = [file.name for file in wanted.files]
    if list(paths) != names:
        raise IdentityError(
            f"{one_line(str(model), _LONGEST)}: expected the files {', '.join(names)}, got {', '.join(paths)}"
        )
    for file in wanted.files:
        path = paths[file.name]
        size, sample = _stat(path)
        if size != file.size:
            raise IdentityError(
                f"{path}: another model: expected {file.size} bytes, as the job was planned, got {size}"
            )
        if sample != file.sample or (whole and _digest(path) != file.digest):
            raise IdentityError(f"{path}: another model: its bytes are not those that the job was planned with")


def _paths(source: Source) -> Iterator[tuple[str, Path]]:
    """The files of a model, with names that do not depend on where they are."""
    if source.kind == "gguf":
        for number, name in enumerate(part_names(source.path.name)):
            yield f"part {number}", source.path.with_name(name)
        return
    if source.kind == "packed":
        yield "packed model", source.path
        return
    weights = weight_files(source.path)
    names = set(() if weights is None else weights.names)
    try:
        names |= {path.name for path in source.path.iterdir() if path.suffix in _SMALL and path.is_file()}
    except OSError as error:
        raise JobError(f"{source.path}: cannot be read: {error.strerror}") from None
    names |= set(module_files(source.path))
    if CONFIG not in names:
        raise JobError(f"{source.path}: expected a model folder with {CONFIG}, got {quoted(sorted(names))}")
    for name in sorted(names):
        yield name, source.path / name


def _stat(path: Path) -> tuple[int, str]:
    """Size and hash of samples."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            starts = [size * number // SAMPLES for number in range(SAMPLES)]
            pieces = [(0, BLOCK), *((start, SAMPLE) for start in starts), (max(0, size - BLOCK), BLOCK)]
            digest = sha256()
            for start, length in pieces if size > 2 * BLOCK else [(0, size)]:
                file.seek(start)
                digest.update(_hashed(file.read(length)))
    except OSError as error:
        raise JobError(f"{path}: cannot be read: {error.strerror}") from None
    return size, digest.hexdigest()[:32]


def _digest(path: Path) -> str:
    """Hash of all bytes."""
    try:
        return _digest_of(path, path.stat().st_mtime_ns)
    except OSError as error:
        raise JobError(f"{path}: cannot be read: {error.strerror}") from None


@cache
def _digest_of(path: Path, _: int) -> str:
    digest, block = sha256(), bytearray(BLOCK)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(block):
            digest.update(_hashed(memoryview(block)[:count]))
    return digest.hexdigest()


def _hashed(data: bytes | memoryview) -> bytes:
    return hash_rows(np.frombuffer(data, np.uint8)).to_bytes(8, "little")
