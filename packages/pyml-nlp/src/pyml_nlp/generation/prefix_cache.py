"""Keys and values of earlier sequences, for prompts that begin alike.

They are the same bits whether they were computed or kept, so reuse changes no text; it saves the time of a prompt's
beginning. Their pages are shared with the caches of texts (:meth:`pyml_nn.KVCache.share`).
"""

from __future__ import annotations

from collections.abc import Sequence

from pyml_core.kv_layout import PAGE_TOKENS
from pyml_core.locks import Lock
from pyml_core.pickling import OfOneProcess
from pyml_nn import KVCache
from pyml_nn.cache import Origin

from ..options.checks import instance
from ..options.load import LoadOptions
from ..values import flag, text, token_ids, whole
from .prefix_tree import PrefixTree

_ROPE_SETS = (0, 1)


class PrefixCache(OfOneProcess, instead="each process has one of its own"):
    """The most recently used sequences, as many as fit. Threads may share it, and models whose caches have one origin.

    Pages that several sequences have in common are kept once. The pages that were used the longest time ago go first,
    those at the end of a sequence before those at its beginning.

    Args:
        max_bytes: most bytes of pages that it keeps; 0: nothing is kept.

    Attributes:
        max_bytes: as given.

    Raises:
        ArgumentError: ``max_bytes`` is not a whole number from 0.
    """

    def __init__(self, max_bytes: int = LoadOptions.prefix_cache_bytes) -> None:
        self.max_bytes = whole("max_bytes", max_bytes, 0)
        self._origin: Origin | None = None
        self._others: set[Origin] = set()
        self._tree = PrefixTree()
        self._max_length = 1  # of the caches that were added
        self._lock = Lock()
        self._changing = False  # left True by a thread that a fork has not copied, or by an exception

    def __len__(self) -> int:
        return self._tree.n_sequences

    def __repr__(self) -> str:
        return f"<PrefixCache: {len(self)} sequences, {self.nbytes / 1e6:.1f} of {self.max_bytes / 1e6:.1f} MB>"

    @property
    def nbytes(self) -> int:
        """Bytes of the pages that it keeps."""
        return 0 if self._origin is None else self._tree.n_pages * self._origin.layout.page_bytes

    def bind(self, origin: Origin, *others: Origin) -> None:
        """Accept only caches of these origins from now on. Without a call, the first cache that is added sets it.

        Args:
            origin: of the model's caches.
            others: of its caches with adapters.

        Raises:
            ShapeError: there are caches of another origin.
        """
        with self._lock:
            self._bind(origin)
            self._others.update(others)

    def fork(self, ids: Sequence[int], salt: str = "", origin: Origin | None = None) -> KVCache | None:
        """A cache of the longest beginning of ``ids`` that was added with this salt, or None.

        The last id is left out: it has to run, for its logits.

        Args:
            ids: token ids.
            salt: as of :meth:`add`.
            origin: of the caches that may be used, which tells their adapter; None: those without an adapter.
        """
        if origin is not None:
            instance("origin", origin, Origin)
        wanted, salt = list(token_ids("ids", ids)[:-1]), text("salt", salt)
        with self._lock:
            origin = self._origin if origin is None else origin
            model = "" if origin is None else origin.model
            tree = self._begin_change()
            found = [(*tree.find((model, salt, rope_set), wanted), rope_set) for rope_set in _ROPE_SETS]
            self._changing = False
            pages, length, rope_set = max(found, key=lambda one: one[1])
            if not length or origin is None:
                return None
            return KVCache.of_pages(origin, pages, wanted[:length], rope_set, self._max_length)

    def add(self, cache: KVCache, salt: str = "", whole_pages: bool = False) -> None:
        """Keep a cache's sequence; the least recently used pages go.

        Args:
            cache: if it is larger than :attr:`max_bytes`, its beginning is kept.
            salt: only prompts with the same salt use it.
            whole_pages: keep no page that is partly filled, which the cache would have to copy when it grows.

        Raises:
            ShapeError: a cache of another model, type of keys and values or CPU level.
            ArgumentError: not a cache, or not a text.
        """
        instance("cache", cache, KVCache)
        salt, whole_pages = text("salt", salt), flag("whole_pages", whole_pages)
        length = min(cache.length, self.max_bytes // cache.layout.page_bytes * PAGE_TOKENS)
        if whole_pages:
            length -= length % PAGE_TOKENS
        with self._lock:
            if cache.origin not in self._others:
                self._bind(cache.origin)
            if not length:
                return
            self._max_length = max(self._max_length, cache.max_length)
            pages = cache.share(length)
            self._begin_change().add((cache.origin.model, salt, cache.rope_set), cache.ids[:length], pages)
            self._shrink(self.max_bytes)

    def shrink(self, max_bytes: int) -> None:
        """Drop the least recently used pages until at most this many bytes are left."""
        with self._lock:
            self._begin_change()
            self._shrink(whole("max_bytes", max_bytes, 0))

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            self._tree = PrefixTree()
            self._changing = False

    def _shrink(self, max_bytes: int) -> None:
        while self.nbytes > max_bytes:
            self._tree.drop_oldest()
        self._changing = False

    def _begin_change(self) -> PrefixTree:
        """The tree, which is about to change; an empty one if the change before was cut short."""
        if self._changing:
            self._tree = PrefixTree()
        self._changing = True
        return self._tree

    def _bind(self, origin: Origin) -> None:
        if self._origin is None:
            self._origin = origin
        self._origin.check(origin, "prefix cache")
