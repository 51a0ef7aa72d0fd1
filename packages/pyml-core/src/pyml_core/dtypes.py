"""Buffers of stored numbers: checks, and conversion from and to float32. See :mod:`pyml_core.block_types`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .block_types import BLOCK_TYPES, BlockType, Expanded, F32Array, U8Array, block_type, check_shape
from .errors import ShapeError, quoted

ByteSource = bytes | bytearray | memoryview | npt.NDArray[Any]
"""Stored bytes: a bytes-like object or a contiguous array of any type."""

_CHUNK_ELEMENTS = 1 << 20  # elements (de)quantised at a time, which bounds the temporaries


def as_bytes(buffer: ByteSource) -> U8Array:
    """Return a flat uint8 view of the buffer's memory. Raises ShapeError if it is not contiguous."""
    if isinstance(buffer, np.ndarray):
        if not buffer.flags.c_contiguous:
            raise ShapeError(
                f"buffer: expected a contiguous array, got strides {buffer.strides} for shape {buffer.shape}"
            )
        return buffer.reshape(-1).view(np.uint8)
    return np.frombuffer(buffer, np.uint8)


def checked_bytes(buffer: ByteSource, dtype: str, shape: Sequence[int]) -> U8Array:
    """Return :func:`as_bytes` of a buffer. Raises ShapeError if a ``dtype`` array of this shape has another size."""
    data = as_bytes(buffer)
    expected = block_type(dtype).nbytes(shape)
    if data.size != expected:
        raise ShapeError(f"{dtype} of shape {tuple(shape)}: expected {expected} bytes, got {data.size}")
    return data


def dequantize(buffer: ByteSource, dtype: str, shape: Sequence[int]) -> F32Array:
    """Return the stored numbers as float32 of the given shape; aligned f32 is returned as a view.

    Raises:
        ShapeError: unknown ``dtype``, or a shape that does not fit the type or the buffer.
    """
    data = checked_bytes(buffer, dtype, shape)
    dims = check_shape(shape)
    kind = BLOCK_TYPES[dtype]
    if kind.to_floats is not None:
        return kind.to_floats(data).reshape(dims)
    blocks = data.reshape(-1, kind.type_size)
    out = np.empty((len(blocks), kind.block_size), np.float32)
    for part in _chunks(len(blocks), kind.block_size):
        with np.errstate(invalid="ignore", over="ignore"):  # infinite or huge stored scales, as in ggml
            codes, scale, minimum = _decoded(kind, blocks[part])
            weights = out[part].reshape(*scale.shape, -1)
            np.multiply(codes.reshape(weights.shape), scale[:, :, None], out=weights)
            if minimum is not None:
                weights += minimum[:, :, None]
    return out.reshape(dims)


def expand(buffer: ByteSource, dtype: str, shape: Sequence[int]) -> Expanded:
    """Return codes, scales and minima of quantised weights of shape (N, K); see :class:`Expanded`.

    Raises:
        ShapeError: ``dtype`` is not quantised, or the shape does not fit the type or the buffer.
    """
    data = checked_bytes(buffer, dtype, shape)
    kind = BLOCK_TYPES[dtype]
    if not kind.quantized:
        raise ShapeError(f"expand: expected a quantised block type, got {quoted(dtype)}")
    rows, width = check_shape(shape)
    with np.errstate(invalid="ignore"):
        codes, scale, minimum = _decoded(kind, data.reshape(-1, kind.type_size))
    n_sub = width // (kind.block_size // scale.shape[1])
    return Expanded(
        codes.reshape(rows, width),
        scale.reshape(rows, n_sub),
        None if minimum is None else minimum.reshape(rows, n_sub),
    )


def quantize(array: npt.ArrayLike, dtype: str) -> U8Array:
    """Store an array as ``dtype`` (f32, f16, bf16, q8_0 or q4_0); return flat uint8. The last axis is the row.

    Raises:
        ShapeError: another ``dtype``, a row that is not a multiple of the block size, or (q8_0, q4_0) numbers that are
            not finite or too large for a float16 scale.
    """
    values = np.ascontiguousarray(array, np.float32)
    kind = BLOCK_TYPES.get(dtype)
    if kind is None or kind.encode is None:
        writable = ", ".join(name for name, one in BLOCK_TYPES.items() if one.encode is not None)
        raise ShapeError(f"quantize: expected a block type of {writable}, got {quoted(dtype)}")
    out = np.empty(kind.nbytes(np.shape(array)), np.uint8).reshape(-1, kind.type_size)
    blocks = values.reshape(-1, kind.block_size)
    for part in _chunks(len(blocks), kind.block_size):
        out[part] = kind.encode(blocks[part])
    return out.reshape(-1)


def _decoded(kind: BlockType, blocks: U8Array) -> Expanded:
    if kind.decode is None:
        raise ShapeError(f"{kind.name}: expected a block type with a decoder")
    return kind.decode(blocks)


def _chunks(n_blocks: int, block_size: int) -> Iterator[slice]:
    step = _CHUNK_ELEMENTS // block_size
    return (slice(start, start + step) for start in range(0, n_blocks, step))
