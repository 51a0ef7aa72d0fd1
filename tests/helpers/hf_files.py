"""Write safetensors files tensor by tensor, and folders of the test cache that appear only when they are whole."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.helpers import fetch

SHARD_BYTES = 400 << 20

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Entry:
    """One tensor to write: its name, safetensors dtype, shape, and the function that makes its values."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    make: Callable[[], Array]

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return int(np.prod(self.shape)) * {"F32": 4, "BF16": 2}[self.dtype]


def write_safetensors(path: Path, entries: Iterable[Entry]) -> None:
    """Write a safetensors file with one tensor in memory at a time."""
    entries = list(entries)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for entry in entries:
        header[entry.name] = {
            "dtype": entry.dtype,
            "shape": entry.shape,
            "data_offsets": [offset, offset + entry.nbytes],
        }
        offset += entry.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for entry in entries:
            file.write(np.ascontiguousarray(entry.make()).data)


def write_shards(folder: Path, entries: Iterable[Entry]) -> None:
    """Write shards of about ``SHARD_BYTES`` and ``model.safetensors.index.json``."""
    shards: list[list[Entry]] = [[]]
    for entry in entries:
        if shards[-1] and sum(e.nbytes for e in shards[-1]) + entry.nbytes > SHARD_BYTES:
            shards.append([])
        shards[-1].append(entry)
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_safetensors(folder / name, shard)
        weight_map |= {entry.name: name for entry in shard}
    total = sum(entry.nbytes for shard in shards for entry in shard)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))


@contextmanager
def new_folder(name: str) -> Iterator[tuple[Path, Path | None]]:
    """(final path, folder to fill or None where it exists already); renamed when the block ends well."""
    final = fetch.cache_dir() / name
    with fetch.locked(name):
        if final.is_dir():
            yield final, None
            return
        folder = Path(tempfile.mkdtemp(dir=fetch.cache_dir(), prefix="make-"))
        try:
            yield final, folder
            folder.rename(final)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
