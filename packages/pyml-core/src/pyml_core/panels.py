"""The packed layout of a weight matrix: panels of 16 interleaved rows, in the order in which a kernel reads them.

Rows are grouped into panels of 16 (in the last panel, rows past the end of the matrix are zero). A panel is a
sequence of chunks of up to 256 columns. A chunk is a sequence of planes, one for each field of the block type
(:class:`pyml_core.block_types.Field`). A plane has that field of all blocks of the chunk, unit by unit, with the 16
rows interleaved: ``[blocks * units][16 rows]``, padded with zeros to a multiple of 64 bytes. One 64-byte load thus
reads one 4-byte unit (or two float16 scales) of each of 16 rows. Stored bits are unchanged, except for two kinds of
field that are recoded for the kernels.

A q8_0 matrix may be *split*: its unsigned codes become two planes of nibbles, and the low nibbles of all panels come
after everything else. A coarse pass over a model's head then reads the first half of the matrix sequentially
(:func:`pyml_core.reference.screen_bounds`). Splitting does not change the size.

The layout is the same at all CPU levels.

This is the specification in NumPy; the compiled packer is tested against it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from .block_types import Field, U8Array, block_type, check_shape
from .dtypes import ByteSource, as_bytes, checked_bytes
from .errors import ShapeError

LAYOUT_VERSION = 1
"""Version of this layout. Files of packed weights name it: any change of packed bytes needs a new one."""

PANEL_ROWS = 16
CHUNK_COLUMNS = 256
ALIGNMENT = 64

_UNITS = {1: np.uint8, 2: np.uint16, 4: np.uint32}
_SPLIT_FIELDS = (Field("d", 0, 2, 1), Field("high", 2, 4, 4), Field("low", 18, 4, 4))


def padded_rows(rows: int) -> int:
    """Return ``rows`` rounded up to whole panels."""
    return -(-rows // PANEL_ROWS) * PANEL_ROWS


def panel_nbytes(dtype: str, columns: int) -> int:
    """Return the bytes of one panel of a matrix with ``columns`` columns (K)."""
    kind = block_type(dtype)
    kind.nbytes((columns,))
    return sum(_padded(PANEL_ROWS * f.unit * f.n_units * blocks) for f, _, blocks in _planes(dtype, columns))


def packed_nbytes(dtype: str, shape: Sequence[int]) -> int:
    """Return the bytes of a packed matrix of shape (N, K), as a Python integer."""
    rows, columns = matrix_shape(shape)
    return padded_rows(rows) // PANEL_ROWS * panel_nbytes(dtype, columns)


def pack(buffer: ByteSource, dtype: str, shape: Sequence[int], split: bool = False) -> U8Array:
    """Pack a stored matrix (N, K) into panels: flat uint8, aligned to 64 bytes. ``split`` makes planes of nibbles.

    Raises:
        ShapeError: ``shape`` is not a matrix of at least one row and column, ``buffer`` has another size, or ``split``
            is set for a type other than q8_0.
    """
    rows, columns = matrix_shape(shape)
    check_split(dtype, split)
    stored = checked_bytes(buffer, dtype, (rows, columns)).reshape(rows, -1)
    if split:
        stored = _split_codes(stored)
    packed = aligned_empty(packed_nbytes(dtype, shape)).reshape(-1, panel_nbytes(dtype, columns))
    packed[:] = 0
    whole = rows // PANEL_ROWS
    _fill_panels(stored[: whole * PANEL_ROWS], PANEL_ROWS, dtype, columns, packed[:whole], split)
    if rows % PANEL_ROWS:
        _fill_panels(stored[whole * PANEL_ROWS :], rows % PANEL_ROWS, dtype, columns, packed[whole:], split)
    if split:
        low = _low_columns(columns)
        return np.concatenate([packed[:, ~low].reshape(-1), packed[:, low].reshape(-1)])
    return packed.reshape(-1)


def check_split(dtype: str, split: bool) -> None:
    """Raise ShapeError if ``split`` is set for a type that cannot be split."""
    if split and dtype != "q8_0":
        raise ShapeError(f"pack: expected q8_0 to be split into nibbles, got {dtype}")


def unpack(packed: ByteSource, dtype: str, shape: Sequence[int], split: bool = False) -> U8Array:
    """Return the stored bytes of a packed matrix (N, K), flat uint8: the inverse of :func:`pack`.

    Raises:
        ShapeError: ``packed`` does not have the size of such a matrix.
    """
    rows, columns = matrix_shape(shape)
    data = as_bytes(packed)
    expected = packed_nbytes(dtype, shape)
    if data.size != expected:
        raise ShapeError(f"packed {dtype} of shape {(rows, columns)}: expected {expected} bytes, got {data.size}")
    panels = _as_panels(data, dtype, columns, split)
    kind = block_type(dtype)
    stored = np.empty((len(panels), PANEL_ROWS, columns // kind.block_size, kind.type_size), np.uint8)
    offset = 0
    for field, first, blocks in _planes(dtype, columns, split):
        size = PANEL_ROWS * field.unit * field.n_units * blocks
        plane = panels[:, offset : offset + size].view(_UNITS[field.unit])
        units = plane.reshape(len(panels), blocks, field.n_units, PANEL_ROWS).transpose(0, 3, 1, 2)
        part = np.ascontiguousarray(units).view(np.uint8)
        stored[:, :, first : first + blocks, _span(field)] = _decode(part, field.recode)
        offset += _padded(size)
    stored = stored.reshape(len(panels) * PANEL_ROWS, -1)[:rows]
    return (_join_codes(stored) if split else stored).reshape(-1)


def _as_panels(packed: U8Array, dtype: str, columns: int, split: bool = False) -> U8Array:
    """Return a packed matrix panel by panel: uint8 (panels, bytes); a copy if it is split."""
    size = panel_nbytes(dtype, columns)
    if not split:
        return packed.reshape(-1, size)
    low = _low_columns(columns)
    panels = np.empty((packed.size // size, size), np.uint8)
    middle = len(panels) * int((~low).sum())
    panels[:, ~low] = packed[:middle].reshape(len(panels), -1)
    panels[:, low] = packed[middle:].reshape(len(panels), -1)
    return panels


def take(packed: U8Array, dtype: str, columns: int, index: npt.NDArray[np.intp], split: bool = False) -> U8Array:
    """Return the panels ``index`` of a packed matrix, as a packed matrix."""
    size = panel_nbytes(dtype, columns)
    if not split:
        return packed.reshape(-1, size)[index].reshape(-1)
    middle = packed.size // size * int((~_low_columns(columns)).sum())
    halves = (packed[:middle], packed[middle:])
    return np.concatenate([half.reshape(packed.size // size, -1)[index].reshape(-1) for half in halves])


def aligned_empty(nbytes: int) -> U8Array:
    """Return uninitialised memory that starts at a multiple of 64 bytes."""
    raw = np.empty(nbytes + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + nbytes]


def matrix_shape(shape: Sequence[int]) -> tuple[int, int]:
    """Return (N, K) as Python integers. Raises ShapeError if it is not a matrix of at least one row and column."""
    dims = check_shape(shape)
    if len(dims) != 2 or 0 in dims:
        raise ShapeError(f"matrix: expected a shape (N, K) of at least (1, 1), got {dims}")
    return dims[0], dims[1]


def _planes(dtype: str, columns: int, split: bool = False) -> Iterator[tuple[Field, int, int]]:
    """Yield the planes of a panel in order: field, first block, number of blocks."""
    kind = block_type(dtype)
    for start in range(0, columns, CHUNK_COLUMNS):
        blocks = min(CHUNK_COLUMNS, columns - start) // kind.block_size
        for field in _SPLIT_FIELDS if split else kind.fields:
            yield field, start // kind.block_size, blocks


def _fill_panels(stored: U8Array, rows: int, dtype: str, columns: int, out: U8Array, split: bool) -> None:
    """Pack rows, ``rows`` in each panel, into zeroed panels."""
    kind = block_type(dtype)
    source = stored.reshape(len(out), rows, columns // kind.block_size, kind.type_size)
    offset = 0
    for field, first, blocks in _planes(dtype, columns, split):
        part = _encode(source[:, :, first : first + blocks, _span(field)], field.recode)
        units = part.view(_UNITS[field.unit]).transpose(0, 2, 3, 1)
        size = PANEL_ROWS * field.unit * field.n_units * blocks
        plane = out[:, offset : offset + size].view(_UNITS[field.unit])
        plane.reshape(len(out), blocks, field.n_units, PANEL_ROWS)[..., :rows] = units
        offset += _padded(size)


def _low_columns(columns: int) -> npt.NDArray[np.bool_]:
    """Return a mask of the bytes of a split panel that are low nibbles."""
    parts = []
    for field, _, blocks in _planes("q8_0", columns, split=True):
        parts.append(np.full(_padded(PANEL_ROWS * field.unit * field.n_units * blocks), field.name == "low"))
    return np.concatenate(parts)


def _split_codes(stored: U8Array) -> U8Array:
    """Recode q8_0 blocks: 16 bytes of high nibbles of ``code + 128``, then 16 bytes of low nibbles.

    Byte i of each 16 has the nibbles of elements i (in its low half) and 16 + i.
    """
    blocks = stored.reshape(*stored.shape[:-1], -1, 34).copy()
    codes = blocks[..., 2:] ^ np.uint8(0x80)
    first, second = codes[..., :16], codes[..., 16:]
    blocks[..., 2:18] = first >> 4 | second & 0xF0
    blocks[..., 18:] = first & 0x0F | second << 4
    return blocks.reshape(stored.shape)


def _join_codes(stored: U8Array) -> U8Array:
    """The inverse of :func:`_split_codes`."""
    blocks = stored.reshape(*stored.shape[:-1], -1, 34).copy()
    high, low = blocks[..., 2:18].copy(), blocks[..., 18:].copy()
    blocks[..., 2:18] = (high << 4 | low & 0x0F) ^ 0x80
    blocks[..., 18:] = (high & 0xF0 | low >> 4) ^ 0x80
    return blocks.reshape(stored.shape)


def _span(field: Field) -> slice:
    return slice(field.offset, field.offset + field.unit * field.n_units)


def _padded(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def _encode(part: U8Array, recode: str) -> U8Array:
    if recode == "biased":
        return part ^ np.uint8(0x80)
    if recode == "bits":
        bits = np.unpackbits(part, axis=-1, bitorder="little").reshape(*part.shape[:-1], 8, 4)
        return np.packbits(bits.swapaxes(-1, -2), axis=-1, bitorder="little").reshape(part.shape)
    return part


def _decode(part: U8Array, recode: str) -> U8Array:
    if recode == "bits":
        bits = np.unpackbits(part, axis=-1, bitorder="little").reshape(*part.shape[:-1], 4, 8)
        return np.packbits(bits.swapaxes(-1, -2).reshape(*part.shape[:-1], 32), axis=-1, bitorder="little")
    return _encode(part, recode)
