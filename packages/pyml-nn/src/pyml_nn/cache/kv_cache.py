"""The keys and values of one sequence: pages that grow, are shared between forks, and can be saved.

Letters: P = positions in a page (64), T = positions in the cache.

Source: pages shared copy-on-write are those of Kwon et al. 2023, arXiv 2309.06180.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from pyml_core.cpu import level
from pyml_core.errors import ShapeError, quoted
from pyml_core.kv_layout import PAGE_TOKENS, KVLayout, PageTable
from pyml_core.locks import importing
from pyml_core.pickling import OfOneProcess

from ..errors import ContextOverflowError
from .origin import Origin

U8Array = npt.NDArray[np.uint8]


class KVCache(OfOneProcess, instead="save it with save(path), and load it with lm.load_cache(path); fork() copies it"):
    """Keys and values of one sequence.

    Args:
        layout: geometry of a page.
        max_length: maximum number of positions; memory is allocated a page at a time, when it is needed.
        model: fingerprint of the model that fills the cache.
        cpu_level: level of the kernels that fill it; None: the one in use.

    Attributes:
        layout, max_length: as given.
        origin: model, CPU level and layout; compared wherever the cache is used, and when it is loaded from a file.
        pages: the pages in use, with room for positions to come.
        rope_set: index of the set of RoPE frequencies that keys were rotated with; undefined in an empty cache.

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
        self._n_shared = 0  # number of pages, from the first one, that a fork may use as well
        self._ids: list[int] = []

    def __repr__(self) -> str:
        megabytes = self.nbytes / 1e6
        return f"<KVCache: {self.length} of {self.max_length} positions, {self.layout.dtype}, {megabytes:.1f} MB>"

    def _repr_html_(self) -> str:
        with importing:
            from pyml_core.notebook import html_table  # start-up: for notebooks alone

        layout = self.layout
        rows = {
            "positions": f"{self.length} of {self.max_length}",
            "type": layout.dtype,
            "memory": f"{self.nbytes / 1e6:.1f} MB, pages shared with forks included",
            "layers x heads x width": f"{layout.n_layers} x {layout.n_kv_heads} x {layout.head_dim}",
        }
        return html_table("KVCache", rows)

    @property
    def length(self) -> int:
        """Number of positions in the cache (T)."""
        return len(self._ids)

    @property
    def nbytes(self) -> int:
        """Bytes of its pages, including those shared with forks."""
        return len(self.pages) * self.layout.page_bytes

    @property
    def ids(self) -> list[int]:
        """Token ids of the positions (a copy)."""
        return list(self._ids)

    def check_room(self, count: int) -> None:
        """Raise :class:`ContextOverflowError` if ``count`` more positions would exceed :attr:`max_length`."""
        if len(self._ids) + count > self.max_length:
            raise ContextOverflowError(
                f"context: {count} tokens after {len(self._ids)} make {len(self._ids) + count} positions, "
                f"expected at most {self.max_length}"
            )

    def reserve(self, count: int) -> None:
        """Make room for ``count`` more positions: pages that no fork shares, from :attr:`length` on.

        Raises:
            ContextOverflowError: they would exceed :attr:`max_length`.
        """
        self.check_room(count)
        start = len(self._ids)
        end = start + count
        first = start // PAGE_TOKENS
        if first < self._n_shared:
            self.pages[first] = _copy(self.layout, self.pages[first])
            self._n_shared = first
        addresses = self.pages.addresses  # perf: its length takes no call of Python, and each step asks for it
        while len(addresses) * PAGE_TOKENS < end:
            self.pages.append(self.layout.new_page())

    def append(self, ids: Sequence[int]) -> None:
        """Add these tokens, whose keys and values a run has written to the reserved pages."""
        if len(self._ids) + len(ids) > len(self.pages.addresses) * PAGE_TOKENS:
            raise ShapeError(f"KV cache: {len(ids)} tokens were appended without being reserved")
        self._ids.extend(ids)

    def replace(self, other: KVCache) -> None:
        """Take the contents of ``other``, which must not be used afterwards; ShapeError if its origin differs."""
        self.origin.check(other.origin, "KV cache")
        self.pages, self._ids, self._n_shared = other.pages, other._ids, other._n_shared
        self.rope_set = other.rope_set

    def trim(self, length: int) -> None:
        """Remove all positions from ``length`` on; ShapeError if the cache is shorter."""
        self._check_length(length)
        del self._ids[length:]
        self.pages.truncate(_pages_for(length))
        self._n_shared = min(self._n_shared, len(self.pages))

    def rewind(self, length: int) -> None:
        """Remove all positions from ``length`` on, but leave their pages as they are.

        Until a run writes after ``length``, appending these tokens again restores those positions.
        """
        self._check_length(length)
        del self._ids[length:]

    def fork(self, length: int | None = None) -> KVCache:
        """Return a cache of the first ``length`` positions (None: all), independent of this one; it shares pages."""
        length = self.length if length is None else length
        self._check_length(length)
        fork = KVCache(self.layout, self.max_length, self.origin.model, self.origin.cpu_level)
        fork.pages = PageTable(self.pages[: _pages_for(length)])
        fork._ids = self._ids[:length]
        fork.rope_set = self.rope_set
        fork._n_shared = len(fork.pages)
        self._n_shared = max(self._n_shared, fork._n_shared)
        return fork

    def share(self, length: int) -> list[U8Array]:
        """The pages of the first ``length`` positions, which this cache will copy before it writes to them."""
        self._check_length(length)
        pages = self.pages[: _pages_for(length)]
        self._n_shared = max(self._n_shared, len(pages))
        return pages

    @classmethod
    def of_pages(
        cls, origin: Origin, pages: Iterable[U8Array], ids: Sequence[int], rope_set: int, max_length: int
    ) -> KVCache:
        """Return a cache of pages that other caches use as well, with the keys and values of these ids."""
        cache = cls(origin.layout, max_length, origin.model, origin.cpu_level)
        cache.pages = PageTable(pages)
        cache._ids = list(ids)
        cache.rope_set = rope_set
        cache._n_shared = len(cache.pages)
        return cache

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write keys, values and token ids to one safetensors file, put in place only when it is complete.

        :mod:`pyml_nn.cache.cache_file` describes the format.

        Raises:
            CacheFileError: the file cannot be written.
        """
        with importing:
            from .cache_file import Contents, save_cache  # start-up: few processes save a cache

        save_cache(path, self.origin, Contents(self._ids, self.rope_set, self.pages))

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
        """Read a file that :meth:`save` wrote; everything in it is checked before it is used.

        Args:
            path: the file.
            layout: required geometry.
            max_length: maximum number of positions of the new cache.
            model: required fingerprint of the model.
            cpu_level: required CPU level; None: the one in use.
            vocab_size: token ids must be below.

        Raises:
            CacheFileError: there is no such file, it is not a safetensors file, it is of another version, model, type,
                geometry or CPU level, its token ids are invalid or more than ``max_length``, its numbers are not
                finite, or its hash differs: it is damaged, or has become shorter meanwhile.
        """
        with importing:  # start-up: few programs load caches
            from .cache_file import load_cache

        cache = cls(layout, max_length, model, cpu_level)
        contents = load_cache(path, cache.origin, max_length, vocab_size)
        cache.pages = PageTable(contents.pages)
        cache._ids, cache.rope_set = contents.ids, contents.rope_set
        return cache

    def _check_length(self, length: int) -> None:
        try:
            inside = not isinstance(length, bool) and 0 <= operator.index(length) <= self.length
        except TypeError:
            inside = False
        if not inside:
            raise ShapeError(f"KV cache: expected a length from 0 to {self.length}, got {quoted(length)}")


def _pages_for(length: int) -> int:
    return -(-length // PAGE_TOKENS)


def _copy(layout: KVLayout, page: U8Array) -> U8Array:
    copy = layout.new_page()
    copy[...] = page
    return copy
