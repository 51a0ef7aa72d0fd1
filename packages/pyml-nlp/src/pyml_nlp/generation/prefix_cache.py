"""Keys and values of earlier sequences, for prompts that begin alike.

They are the same bits whether they were computed or kept, so reuse changes no text; it saves the time of a prompt's
beginning. Entries share pages with what they were forked from (:meth:`pyml_nn.KVCache.fork`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pyml_core.kv_layout import PAGE_TOKENS
from pyml_core.locks import Lock
from pyml_core.pickling import OfOneProcess
from pyml_nn import KVCache
from pyml_nn.cache import Origin

from ..options.checks import instance
from ..options.load import LoadOptions
from ..values import token_ids, whole


class _Entry(NamedTuple):
    ids: list[int]
    cache: KVCache


class PrefixCache(OfOneProcess, instead="each process has one of its own"):
    """The most recently used sequences, as many as fit. Threads may share it, and models whose caches have one origin.

    Args:
        max_bytes: most bytes of pages that it keeps, shared ones counted once; 0: nothing is kept.

    Attributes:
        max_bytes: as given.

    Raises:
        ArgumentError: ``max_bytes`` is not a whole number from 0.
    """

    def __init__(self, max_bytes: int = LoadOptions.prefix_cache_bytes) -> None:
        self.max_bytes = whole("max_bytes", max_bytes, 0)
        self._origin: Origin | None = None
        self._entries: list[_Entry] = []  # the one used last is the last
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"<PrefixCache: {len(self)} sequences, {self.nbytes / 1e6:.1f} of {self.max_bytes / 1e6:.1f} MB>"

    @property
    def nbytes(self) -> int:
        """Bytes of the pages that it keeps, shared ones counted once."""
        with self._lock:
            return _nbytes(self._entries)

    def bind(self, origin: Origin) -> None:
        """Accept only caches of this origin from now on. Without a call, the first cache that is added sets it.

        Raises:
            ShapeError: there are caches of another origin.
        """
        with self._lock:
            self._bind(origin)

    def fork(self, ids: Sequence[int]) -> KVCache | None:
        """A cache of the longest beginning of ``ids`` that is kept, or None.

        The last id is left out: it has to run, for its logits.
        """
        wanted = list(token_ids("ids", ids)[:-1])
        with self._lock:
            lengths = [common_length(entry.ids, wanted) for entry in self._entries]
            length = max(lengths, default=0)
            if not length:
                return None
            entry = self._entries.pop(lengths.index(length))
            self._entries.append(entry)
            return entry.cache.fork(length)

    def add(self, cache: KVCache) -> None:
        """Keep a cache's sequence, in place of the entries that it continues; the least recently used entries go.

        If a cache is larger than :attr:`max_bytes`, its beginning is kept.

        Raises:
            ShapeError: a cache of another model, type of keys and values or CPU level.
            ArgumentError: not a cache.
        """
        instance("cache", cache, KVCache)
        room = self.max_bytes // cache.layout.page_bytes * PAGE_TOKENS
        length = min(cache.length, room)
        ids = cache.ids[:length]
        with self._lock:
            self._bind(cache.origin)
            if not length:
                return
            holder = next((entry for entry in self._entries if entry.ids[:length] == ids), None)
            if holder is not None:  # the sequence is kept already
                self._entries.remove(holder)
                self._entries.append(holder)
                return
            self._entries = [entry for entry in self._entries if ids[: len(entry.ids)] != entry.ids]
            self._entries.append(_Entry(ids, cache.fork(length)))
            while _nbytes(self._entries) > self.max_bytes:
                del self._entries[0]

    def clear(self) -> None:
        """Drop all entries."""
        with self._lock:
            self._entries.clear()

    def _bind(self, origin: Origin) -> None:
        if self._origin is None:
            self._origin = origin
        self._origin.check(origin, "prefix cache")


def _nbytes(entries: Sequence[_Entry]) -> int:
    """Bytes of all pages, each counted once."""
    pages = {id(page) for entry in entries for page in entry.cache.pages}
    return len(pages) * entries[0].cache.layout.page_bytes if entries else 0


def common_length(a: Sequence[int], b: Sequence[int]) -> int:
    """The number of ids that two sequences have in common at their beginning."""
    low, high = 0, min(len(a), len(b))
    while low < high:  # the first `low` are equal; slices are compared in C
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
