"""The keys and values of one sequence: pages that grow, are shared between forks, and can be saved.

Letters: P = positions in a page (64), H = key/value heads, D = head_dim, T = positions held.

Source: pages shared copy-on-write are those of Kwon et al. 2023, arXiv 2309.06180.
"""

from __future__ import annotations

import itertools
import json
import operator
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pyml_core.cpu import level
from pyml_core.errors import ShapeError
from pyml_core.kv_layout import PAGE_TOKENS, VALUE_SCALES, KVLayout, PageTable
from pyml_core.pickling import OfOneProcess

from ..errors import CacheFileError, ContextOverflowError, show
from ..files import new_file
from .tensor_file import NUMPY_TYPES, Kind, TensorFile, TensorFileError, write_tensors

U8Array = npt.NDArray[np.uint8]

FORMAT = "pyml-kv-cache"
VERSION = "3"

_HEADER_BYTES = 4 << 20  # of a file, that are always allowed: more token ids than most contexts hold


class Origin(NamedTuple):
    """What keys and values depend on besides the tokens: caches of equal origins are interchangeable, bit for bit.

    Attributes:
        model: fingerprint of the model.
        cpu_level: level of the kernels.
        layout: geometry of a page, with the type of keys and values.
    """

    model: str
    cpu_level: str
    layout: KVLayout

    def check(self, found: Origin, what: str) -> None:
        """Raise :class:`ShapeError`, which begins with ``what``, unless ``found`` is equal."""
        if found == self:
            return
        if found.model != self.model:
            raise ShapeError(f"{what}: expected a KV cache of this model, found one of another model")
        if found.layout != self.layout:
            raise ShapeError(f"{what}: expected a KV cache in {self.layout.dtype}, found one in {found.layout.dtype}")
        raise ShapeError(f"{what}: expected a KV cache of CPU level {self.cpu_level}, found one of {found.cpu_level}")


class KVCache(OfOneProcess, instead="save it with save(path), and load it with lm.load_cache(path); fork() copies it"):
    """Keys and values of one sequence.

    Args:
        layout: geometry of a page.
        max_length: most positions it may hold (T); memory is taken a page at a time as they come.
        model: fingerprint of the model that fills it.
        cpu_level: level of the kernels that fill it; None: the one in use.

    Attributes:
        layout, max_length: as given.
        origin: what it can be used with; compared wherever it is used, and when it is loaded from a file.
        pages: the pages in use, with room for positions to come.
        rope_set: the set of RoPE frequencies that keys were rotated with; without meaning in an empty cache.

    A cache is used by one thread at a time. Pages shared with a fork are copied when one of the two writes to them.
    """

    def __init__(self, layout: KVLayout, max_length: int, model: str = "", cpu_level: str | None = None) -> None:
        if max_length < 1:
            raise ShapeError(f"KV cache max_length: expected at least 1, got {max_length}")
        self.layout = layout
        self.max_length = max_length
        self.origin = Origin(model, cpu_level or level(), layout)
        self.pages = PageTable()
        self.rope_set = 0
        self._n_shared = 0  # the first so many pages may belong to a fork as well
        self._ids: list[int] = []

    @property
    def length(self) -> int:
        """Positions held."""
        return len(self._ids)

    @property
    def nbytes(self) -> int:
        """Bytes of the pages that it refers to, those shared with forks included."""
        return len(self.pages) * self.layout.page_bytes

    @property
    def ids(self) -> list[int]:
        """Token ids of the positions held (a copy)."""
        return list(self._ids)

    def check_room(self, count: int) -> None:
        """Raise :class:`ContextOverflowError` if ``count`` more positions would be more than :attr:`max_length`."""
        if len(self._ids) + count > self.max_length:
            raise ContextOverflowError(
                f"context: {count} tokens after {len(self._ids)} make {len(self._ids) + count} positions, "
                f"expected at most {self.max_length}"
            )

    def reserve(self, count: int) -> None:
        """Make room for ``count`` more positions: pages of this cache's own from :attr:`length` on.

        Raises:
            ContextOverflowError: they would be more than :attr:`max_length`.
        """
        self.check_room(count)
        start = len(self._ids)
        end = start + count
        first = start // PAGE_TOKENS
        if first < self._n_shared:
            self.pages[first] = _copy(self.layout, self.pages[first])
            self._n_shared = first
        while len(self.pages) * PAGE_TOKENS < end:
            self.pages.append(self.layout.new_page())

    def append(self, ids: Sequence[int]) -> None:
        """Count these tokens as held: a run has written their keys and values to the reserved pages."""
        if len(self._ids) + len(ids) > len(self.pages) * PAGE_TOKENS:
            raise ShapeError(f"KV cache: {len(ids)} tokens were appended without being reserved")
        self._ids.extend(ids)

    def replace(self, other: KVCache) -> None:
        """Hold what ``other`` holds, which is not to be used any more; ShapeError if it is of another origin."""
        self.origin.check(other.origin, "KV cache")
        self.pages, self._ids, self._n_shared = other.pages, other._ids, other._n_shared
        self.rope_set = other.rope_set

    def trim(self, length: int) -> None:
        """Forget every position from ``length`` on; ShapeError if it holds fewer."""
        self._check_length(length)
        del self._ids[length:]
        self.pages.truncate(_pages_for(length))
        self._n_shared = min(self._n_shared, len(self.pages))

    def rewind(self, length: int) -> None:
        """Forget every position from ``length`` on, but keep what their pages hold.

        Until something is run after ``length``, appending the same tokens brings those positions back as they were.
        """
        self._check_length(length)
        del self._ids[length:]

    def fork(self, length: int | None = None) -> KVCache:
        """A cache of the first ``length`` positions (None: all) that shares their pages; each then goes its own way."""
        length = self.length if length is None else length
        self._check_length(length)
        fork = KVCache(self.layout, self.max_length, self.origin.model, self.origin.cpu_level)
        fork.pages = PageTable(self.pages[: _pages_for(length)])
        fork._ids = self._ids[:length]
        fork.rope_set = self.rope_set
        fork._n_shared = len(fork.pages)
        self._n_shared = max(self._n_shared, fork._n_shared)
        return fork

    def _check_length(self, length: int) -> None:
        if not 0 <= operator.index(length) <= self.length:
            raise ShapeError(f"KV cache: expected a length from 0 to {self.length}, got {length}")

    # ---- files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write keys, values and token ids to one safetensors file, put in place only when it is complete.

        Tensors are ``layers.N.keys`` and ``layers.N.values``, each (T, H, D) in the cache's type; those in int8 (codes,
        of keys those of their Hadamard transform) have ``layers.N.key_scales`` (T, H, D/B) and
        ``layers.N.value_scales`` (T, H, 2), of a scale its logarithm and its inverse, besides. Metadata: format,
        version, model fingerprint, type, CPU level, token ids, the set of RoPE frequencies, a hash of all of it.

        Raises:
            CacheFileError: the file cannot be written.
        """
        layers = range(self.layout.n_layers)
        kinds = {name: kind for layer in layers for name, kind in self._parts(layer, self.length).items()}
        arrays = itertools.chain.from_iterable(map(self._logical, layers))
        metadata = self._expected_metadata() | {"ids": json.dumps(self._ids), "rope_set": str(self.rope_set)}
        try:
            with new_file(path) as file:
                write_tensors(file, kinds, arrays, metadata)
        except OSError as error:
            raise CacheFileError(f"{os.fspath(path)}: cannot save the KV cache: {error.strerror or error}") from None

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        layout: KVLayout,
        max_length: int,
        model: str = "",
        cpu_level: str | None = None,
        vocab_size: int = 1 << 31,
    ) -> KVCache:
        """Read what :meth:`save` wrote; everything in the file is checked before it is used.

        Args:
            path: the file.
            layout: geometry that it must have.
            max_length: most positions that the new cache may hold.
            model: fingerprint that it must have.
            cpu_level: level that it must come from; None: the one in use.
            vocab_size: token ids must be below.

        Raises:
            CacheFileError: no such file, not a safetensors file, another version, model, type, geometry or CPU level,
                invalid token ids, more of them than ``max_length``, numbers that are not finite, or another hash: the
                file is damaged, or has become shorter meanwhile.
        """
        cache = cls(layout, max_length, model, cpu_level)
        try:
            with TensorFile(path, max(_HEADER_BYTES, 16 * max_length)) as file:
                ids = cache._check_metadata(file.metadata, vocab_size)
                cache.rope_set = cache._check_rope_set(file.metadata)
                cache._check_tensors(file, len(ids))
                cache.reserve(len(ids))
                for layer in range(layout.n_layers):
                    cache._fill(layer, {name: file.read(name) for name in cache._parts(layer, len(ids))})
                file.check_hash()
        except (OSError, ValueError, TensorFileError, CacheFileError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or error
            raise CacheFileError(f"{os.fspath(path)}: cannot load the KV cache: {reason}") from None
        cache.append(ids)
        return cache

    def _expected_metadata(self) -> dict[str, str]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "model": self.origin.model,
            "dtype": self.layout.dtype,
            "level": self.origin.cpu_level,
        }

    def _check_metadata(self, metadata: Mapping[str, str], vocab_size: int) -> list[int]:
        """The token ids."""
        for key, expected in self._expected_metadata().items():
            if metadata.get(key) != expected:
                raise CacheFileError(f"metadata {key}: expected {expected!r}, found {metadata.get(key)!r:.100}")
        try:
            ids = json.loads(metadata.get("ids", ""))
        except (ValueError, RecursionError):
            raise CacheFileError("metadata ids: expected a JSON list of token ids") from None
        if not isinstance(ids, list) or not all(type(token) is int and 0 <= token < vocab_size for token in ids):
            raise CacheFileError(f"metadata ids: expected a list of token ids from 0 to {vocab_size - 1}")
        if len(ids) > self.max_length:
            raise CacheFileError(f"metadata ids: {len(ids)} tokens, the context holds at most {self.max_length}")
        return ids

    def _check_rope_set(self, metadata: Mapping[str, str]) -> int:
        sets = {"0": 0, "1": 1}
        found = metadata.get("rope_set")
        if found not in sets:
            raise CacheFileError(f"metadata rope_set: expected '0' or '1', found {found!r:.100}")
        return sets[found]

    def _check_tensors(self, file: TensorFile, length: int) -> None:
        found = dict(file.tensors)
        for layer in range(self.layout.n_layers):
            for name, expected in self._parts(layer, length).items():
                kind = found.pop(name, None)
                if kind is None:
                    raise CacheFileError(f"tensor {name}: missing")
                if kind.shape != expected.shape:
                    raise CacheFileError(f"tensor {name}: expected shape {expected.shape}, found {kind.shape}")
                if kind.dtype != expected.dtype:
                    raise CacheFileError(f"tensor {name}: expected {expected.dtype}, found {show(kind.dtype)}")
        if found:
            raise CacheFileError(f"tensor {show(min(found))}: unknown")

    # ---- between pages and (T, H, D)

    def _parts(self, layer: int, length: int) -> dict[str, Kind]:
        """The tensors of one layer for ``length`` positions (T)."""
        heads, dim = self.layout.n_kv_heads, self.layout.head_dim
        dtype = {1: "I8", 2: "F16", 4: "F32"}[self.layout.numpy_dtype.itemsize]
        keys, values = {"keys": (dtype, dim)}, {"values": (dtype, dim)}
        if self.layout.int8:
            keys["key_scales"] = "F32", dim // self.layout.key_block
            values["value_scales"] = "F32", VALUE_SCALES
        return {
            f"layers.{layer}.{name}": Kind(kind, (length, heads, width))
            for name, (kind, width) in (keys | values).items()
        }

    def _logical(self, layer: int) -> list[npt.NDArray[Any]]:
        """One layer's keys and values (codes and scales, if int8), each (T, H, width)."""
        pages = [(*self.layout.load_keys(page, layer), *self.layout.load_values(page, layer)) for page in self.pages]
        if not pages:
            return [np.empty(kind.shape, NUMPY_TYPES[kind.dtype]) for kind in self._parts(layer, 0).values()]
        return [np.concatenate(parts)[: self.length] for parts in zip(*pages, strict=True)]

    def _fill(self, layer: int, tensors: Mapping[str, npt.NDArray[Any]]) -> None:
        for name, array in tensors.items():
            if not np.isfinite(array).all():
                raise CacheFileError(f"tensor {name}: expected finite numbers")
        for index, page in enumerate(self.pages):
            parts = [array[index * PAGE_TOKENS : (index + 1) * PAGE_TOKENS] for array in tensors.values()]
            half = len(parts) // 2
            self.layout.store_keys(page, layer, 0, parts[:half])
            self.layout.store_values(page, layer, 0, parts[half:])


def _pages_for(length: int) -> int:
    return -(-length // PAGE_TOKENS)


def _copy(layout: KVLayout, page: U8Array) -> U8Array:
    copy = layout.new_page()
    copy[...] = page
    return copy
