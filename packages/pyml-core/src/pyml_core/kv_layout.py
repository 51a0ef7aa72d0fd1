"""The memory layout of keys and values: pages of 64 positions, each with every layer.

Letters: P = positions in a page (64), H = key/value heads, D = head_dim.

Page ``b`` always has positions ``64 b .. 64 b + 63``. Pages ``2 b`` and ``2 b + 1`` are one key block of attention, so
that prefill and decode reduce over the same blocks in the same order. A page has the layers in order, each layer the
heads in order, and each head its keys, then its values, so that a head's part of a page is contiguous:

- K as ``P/16`` panels of shape ``(D, 16)``: sixteen interleaved keys, which the dot products with a query stream;
- V as ``(P, D)``: one row for each position, which the weighted sum streams.

With ``dtype="int8"``, keys are stored as int8 codes of their Hadamard transform (:func:`pyml_core.reference.hadamard`),
with a float32 scale for every B elements (:attr:`KVLayout.key_block`). A head has ``D/B`` blocks, each with ``(P)``
scales and ``(B/4, P, 4)`` codes: groups of four elements of each key, stored as code + 128, in the operand order of
integer dot product instructions. Values are int8 codes with one scale each
(:func:`pyml_core.reference.quantize_values`): ``(2, P)`` float32 numbers for the scales, then ``(D/16, P/4, 16, 4)``
codes, groups of four positions of 16 elements.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from .errors import ShapeError

PAGE_TOKENS = 64
KEY_BLOCK_TOKENS = 128
"""Number of positions in a key block, which attention reduces before it merges the result."""
PANEL = 16

INT8_MULTIPLE = 32
"""With int8 keys and values, ``head_dim`` must be a multiple of this."""
KEY_BLOCK_MAX = 128
"""Maximum number of elements of an int8 key that are transformed together and share a scale."""
VALUE_SCALES = 2
"""Number of float32 stored with the codes of an int8 value: the logarithm and the inverse of its scale."""

_DTYPES: dict[str, np.dtype[np.generic]] = {
    "f16": np.dtype(np.float16), "f32": np.dtype(np.float32), "int8": np.dtype(np.int8),
}  # fmt: skip


@dataclass(frozen=True)
class KVLayout:
    """The geometry of a key/value cache: size and layout of a page.

    Args:
        n_layers: number of layers with attention.
        n_kv_heads: number of key/value heads in a layer (H).
        head_dim: width of a head (D).
        dtype: ``"f16"``, ``"f32"`` or ``"int8"`` (D a multiple of 32); keys and values are rounded to it before use.
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
        if self.int8 and self.head_dim % INT8_MULTIPLE:
            raise ShapeError(
                f"KV cache head_dim: expected a multiple of {INT8_MULTIPLE} for {self.dtype}, got {self.head_dim}"
            )

    @property
    def numpy_dtype(self) -> np.dtype[np.generic]:
        """NumPy type of a stored element."""
        return _DTYPES[self.dtype]

    @property
    def int8(self) -> bool:
        """Whether keys and values are int8 codes with scales."""
        return self.dtype == "int8"

    @property
    def key_block(self) -> int:
        """Elements of an int8 key that share a scale: the largest power of two, up to 128, that divides D."""
        return min(self.head_dim & -self.head_dim, KEY_BLOCK_MAX)

    @property
    def key_bytes(self) -> int:
        """Bytes of one head's keys in one page."""
        if self.int8:
            return self.head_dim // self.key_block * self._key_block_dtype.itemsize
        return self.value_bytes

    @property
    def value_bytes(self) -> int:
        """Bytes of one head's values in one page."""
        scales = VALUE_SCALES * 4 if self.int8 else 0
        return PAGE_TOKENS * (scales + self.head_dim * self.numpy_dtype.itemsize)

    @property
    def layer_bytes(self) -> int:
        """Bytes of one layer's keys and values in one page: K and V of the first head, then of the second, ..."""
        return self.n_kv_heads * (self.key_bytes + self.value_bytes)

    @property
    def page_bytes(self) -> int:
        """Bytes of one page."""
        return self.n_layers * self.layer_bytes

    def bytes_for(self, tokens: int) -> int:
        """Return the bytes of the pages that ``tokens`` positions need."""
        return -(-tokens // PAGE_TOKENS) * self.page_bytes

    def new_page(self) -> npt.NDArray[np.uint8]:
        """Return a zeroed page, aligned to 64 bytes; kernels may read (and ignore) up to 64 bytes past its end."""
        raw = np.zeros(self.page_bytes + 128, np.uint8)
        start = -raw.ctypes.data % 64
        return raw[start : start + self.page_bytes]

    def keys(self, page: npt.NDArray[np.uint8], layer: int) -> npt.NDArray[np.generic]:
        """Return a view of one layer's f16 or f32 keys in a page, shape ``(H, P/16, D, 16)``."""
        return self._keys(page, layer).view(self.numpy_dtype).reshape(self.n_kv_heads, -1, self.head_dim, PANEL)

    def key_codes(self, page: npt.NDArray[np.uint8], layer: int) -> npt.NDArray[np.uint8]:
        """Return a view of one layer's int8 keys in a page, stored as code + 128: shape ``(H, D/B, B/4, P, 4)``."""
        return self._key_blocks(page, layer)["codes"]

    def key_scales(self, page: npt.NDArray[np.uint8], layer: int) -> npt.NDArray[np.float32]:
        """Return a view of the scales of one layer's int8 keys in a page, shape ``(H, D/B, P)``."""
        return self._key_blocks(page, layer)["scales"]

    def values(self, page: npt.NDArray[np.uint8], layer: int) -> npt.NDArray[np.generic]:
        """Return a view of one layer's f16 or f32 values in a page, shape ``(H, P, D)``."""
        return self._values(page, layer).view(self.numpy_dtype).reshape(self.n_kv_heads, PAGE_TOKENS, self.head_dim)

    def value_codes(self, page: npt.NDArray[np.uint8], layer: int) -> npt.NDArray[np.int8]:
        """Return a view of one layer's int8 values in a page, shape ``(H, D/16, P/4, 16, 4)``."""
        codes = self._values(page, layer)[:, PAGE_TOKENS * VALUE_SCALES * 4 :].view(np.int8)
        return codes.reshape(self.n_kv_heads, self.head_dim // PANEL, PAGE_TOKENS // 4, PANEL, 4)

    def value_scales(self, page: npt.NDArray[np.uint8], layer: int) -> npt.NDArray[np.float32]:
        """Return a view of the base-2 logarithms and inverses of one layer's int8 value scales: ``(H, 2, P)``."""
        scales = self._values(page, layer)[:, : PAGE_TOKENS * VALUE_SCALES * 4].view(np.float32)
        return scales.reshape(self.n_kv_heads, VALUE_SCALES, PAGE_TOKENS)

    def load_keys(self, page: npt.NDArray[np.uint8], layer: int) -> tuple[npt.NDArray[np.generic], ...]:
        """Return one layer's keys in a page by position: (P, H, D), or int8 codes and their scales (P, H, D/B)."""
        if not self.int8:
            keys = self.keys(page, layer).transpose(1, 3, 0, 2)  # (H, P/16, D, 16) -> (P/16, 16, H, D)
            return (keys.reshape(PAGE_TOKENS, self.n_kv_heads, self.head_dim),)
        codes = self.key_codes(page, layer).transpose(3, 0, 1, 2, 4) ^ np.uint8(128)
        scales = self.key_scales(page, layer).transpose(2, 0, 1)
        return codes.reshape(PAGE_TOKENS, self.n_kv_heads, -1).view(np.int8), scales.copy()

    def store_keys(
        self, page: npt.NDArray[np.uint8], layer: int, first: int, keys: Sequence[npt.NDArray[np.generic]]
    ) -> None:
        """Store keys, in the form that :meth:`load_keys` returns, at positions ``first ..`` of a page."""
        rows = slice(first, first + len(keys[0]))
        parts = self.load_keys(page, layer)
        for whole, part in zip(parts, keys, strict=True):
            whole[rows] = part
        heads = self.n_kv_heads
        if not self.int8:
            panels = parts[0].reshape(-1, PANEL, heads, self.head_dim)
            self.keys(page, layer)[...] = panels.transpose(2, 0, 3, 1)
            return
        codes = parts[0].view(np.uint8).reshape(PAGE_TOKENS, heads, -1, self.key_block // 4, 4)
        self.key_codes(page, layer)[...] = codes.transpose(1, 2, 3, 0, 4) ^ np.uint8(128)
        self.key_scales(page, layer)[...] = parts[1].transpose(1, 2, 0)

    def load_values(self, page: npt.NDArray[np.uint8], layer: int) -> tuple[npt.NDArray[np.generic], ...]:
        """Return one layer's values in a page by position: (P, H, D), or int8 codes and (P, H, 2) for their scales.

        The latter are the base-2 logarithm and the inverse of each scale.
        """
        if not self.int8:
            return (self.values(page, layer).swapaxes(0, 1).copy(),)
        codes = self.value_codes(page, layer).transpose(2, 4, 0, 1, 3)  # (H, D/16, P/4, 16, 4) -> (P/4, 4, H, D/16, 16)
        scales = self.value_scales(page, layer).transpose(2, 0, 1)
        return codes.reshape(PAGE_TOKENS, self.n_kv_heads, self.head_dim), scales.copy()

    def store_values(
        self, page: npt.NDArray[np.uint8], layer: int, first: int, values: Sequence[npt.NDArray[np.generic]]
    ) -> None:
        """Store values, in the form that :meth:`load_values` returns, at positions ``first ..`` of a page."""
        rows = slice(first, first + len(values[0]))
        parts = self.load_values(page, layer)
        for whole, part in zip(parts, values, strict=True):
            whole[rows] = part
        if not self.int8:
            self.values(page, layer)[...] = parts[0].swapaxes(0, 1)
            return
        codes = parts[0].reshape(-1, 4, self.n_kv_heads, self.head_dim // PANEL, PANEL)
        self.value_codes(page, layer)[...] = codes.transpose(2, 3, 0, 4, 1)
        self.value_scales(page, layer)[...] = parts[1].transpose(1, 2, 0)

    @property
    def _key_block_dtype(self) -> np.dtype[Any]:
        codes = (self.key_block // 4, PAGE_TOKENS, 4)
        return np.dtype([("scales", np.float32, (PAGE_TOKENS,)), ("codes", np.uint8, codes)])

    def _heads(self, page: npt.NDArray[np.uint8], layer: int) -> npt.NDArray[np.uint8]:
        return page[layer * self.layer_bytes : (layer + 1) * self.layer_bytes].reshape(self.n_kv_heads, -1)

    def _values(self, page: npt.NDArray[np.uint8], layer: int) -> npt.NDArray[np.uint8]:
        return self._heads(page, layer)[:, self.key_bytes :]

    def _keys(self, page: npt.NDArray[np.uint8], layer: int) -> npt.NDArray[np.uint8]:
        return self._heads(page, layer)[:, : self.key_bytes]

    def _key_blocks(self, page: npt.NDArray[np.uint8], layer: int) -> npt.NDArray[Any]:
        return self._keys(page, layer).view(self._key_block_dtype)


class PageTable(Sequence["npt.NDArray[np.uint8]"]):
    """The pages of one sequence in order, with the table of their addresses that the kernels read."""

    def __init__(self, pages: Iterable[npt.NDArray[np.uint8]] = ()) -> None:
        self._pages: list[npt.NDArray[np.uint8]] = []
        self.addresses = array("Q")
        for page in pages:
            self.append(page)

    # Pages and addresses change together or not at all. Either change can fail: with BufferError while a run reads the
    # table, or with MemoryError.

    def append(self, page: npt.NDArray[np.uint8]) -> None:
        """Add a page at the end."""
        self.addresses.append(_address(page))
        try:
            self._pages.append(page)
        except MemoryError:
            self.addresses.pop()
            raise

    def __setitem__(self, index: int, page: npt.NDArray[np.uint8]) -> None:
        self.addresses[index] = _address(page)
        self._pages[index] = page

    def truncate(self, count: int) -> None:
        """Keep the first ``count`` pages."""
        kept = self._pages[:count]
        del self.addresses[count:]
        self._pages = kept

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


def _address(page: npt.NDArray[np.uint8]) -> int:
    address: int = page.__array_interface__["data"][0]
    return address
