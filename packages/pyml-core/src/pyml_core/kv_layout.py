"""How keys and values lie in memory: pages of 64 positions, each holding every layer.

Letters: P = positions in a page (64), H = key/value heads, D = head_dim.

A page is one key block of attention at a fixed absolute position (page ``b`` holds positions ``64 b .. 64 b + 63``), so
that prefill and decode reduce over the same blocks in the same order. Inside a page, layer by layer and head by head:

- K as ``P/16`` panels of shape ``(D, 16)``: sixteen keys side by side, which the dot products with a query stream;
- V as ``(P, D)``: one row a position, which the weighted sum streams.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import numpy.typing as npt

from .errors import ShapeError

PAGE_TOKENS = 64
PANEL = 16

_DTYPES: dict[str, np.dtype[np.generic]] = {"f16": np.dtype(np.float16), "f32": np.dtype(np.float32)}


@dataclass(frozen=True)
class KVLayout:
    """The geometry of a key/value cache: what a page holds and where.

    Args:
        n_layers: number of layers that keep keys and values.
        n_kv_heads: key/value heads a layer (H).
        head_dim: width of a head (D).
        dtype: ``"f16"`` or ``"f32"``; keys and values are rounded to it before any use.
    """

    n_layers: int
    n_kv_heads: int
    head_dim: int
    dtype: str = "f16"

    def __post_init__(self) -> None:
        if self.dtype not in _DTYPES:
            raise ShapeError(f"KV cache dtype: expected one of {sorted(_DTYPES)}, got {self.dtype!r}")
        for field in ("n_layers", "n_kv_heads", "head_dim"):
            if getattr(self, field) < 1:
                raise ShapeError(f"KV cache {field}: expected at least 1, got {getattr(self, field)}")

    @property
    def numpy_dtype(self) -> np.dtype[np.generic]:
        """The NumPy type of a stored element."""
        return _DTYPES[self.dtype]

    @property
    def head_bytes(self) -> int:
        """Bytes of one head's keys (or values) in one page."""
        return PAGE_TOKENS * self.head_dim * self.numpy_dtype.itemsize

    @property
    def layer_bytes(self) -> int:
        """Bytes of one layer's keys and values in one page: all K heads, then all V heads."""
        return 2 * self.n_kv_heads * self.head_bytes

    @property
    def page_bytes(self) -> int:
        """Bytes of one page."""
        return self.n_layers * self.layer_bytes

    def bytes_for(self, tokens: int) -> int:
        """Bytes of the pages that ``tokens`` positions need."""
        return -(-tokens // PAGE_TOKENS) * self.page_bytes

    def new_page(self) -> npt.NDArray[np.uint8]:
        """A zeroed page, aligned to 64 bytes; kernels may read (and ignore) up to 64 bytes past its end."""
        raw = np.zeros(self.page_bytes + 128, np.uint8)
        start = -raw.ctypes.data % 64
        return raw[start : start + self.page_bytes]

    def keys(self, page: npt.NDArray[np.uint8], layer: int) -> npt.NDArray[np.generic]:
        """A view of one layer's keys in a page, shape ``(H, P/16, D, 16)``."""
        start = layer * self.layer_bytes
        part = page[start : start + self.layer_bytes // 2].view(self.numpy_dtype)
        return part.reshape(self.n_kv_heads, PAGE_TOKENS // PANEL, self.head_dim, PANEL)

    def values(self, page: npt.NDArray[np.uint8], layer: int) -> npt.NDArray[np.generic]:
        """A view of one layer's values in a page, shape ``(H, P, D)``."""
        start = layer * self.layer_bytes + self.layer_bytes // 2
        part = page[start : start + self.layer_bytes // 2].view(self.numpy_dtype)
        return part.reshape(self.n_kv_heads, PAGE_TOKENS, self.head_dim)


class PageTable(Sequence["npt.NDArray[np.uint8]"]):
    """The pages of one sequence in order, with the table of their addresses that the kernels read."""

    def __init__(self, pages: Iterable[npt.NDArray[np.uint8]] = ()) -> None:
        self._pages: list[npt.NDArray[np.uint8]] = []
        self.addresses = array("Q")
        for page in pages:
            self.append(page)

    def append(self, page: npt.NDArray[np.uint8]) -> None:
        """Add a page at the end."""
        self.addresses.append(page.__array_interface__["data"][0])  # BufferError while a run reads the table
        self._pages.append(page)

    def __setitem__(self, index: int, page: npt.NDArray[np.uint8]) -> None:
        self._pages[index] = page
        self.addresses[index] = page.__array_interface__["data"][0]

    def truncate(self, count: int) -> None:
        """Keep the first ``count`` pages."""
        del self.addresses[count:]
        del self._pages[count:]

    def __len__(self) -> int:
        return len(self._pages)

    def __iter__(self) -> Iterator[npt.NDArray[np.uint8]]:
        return iter(self._pages)

    @overload
    def __getitem__(self, index: int) -> npt.NDArray[np.uint8]: ...
    @overload
    def __getitem__(self, index: slice) -> list[npt.NDArray[np.uint8]]: ...
    def __getitem__(self, index: int | slice) -> npt.NDArray[np.uint8] | list[npt.NDArray[np.uint8]]:
        return self._pages[index]
