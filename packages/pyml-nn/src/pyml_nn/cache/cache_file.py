"""Saved KV caches: one safetensors file for each.

Letters: T = positions in the cache, H = key/value heads, D = head_dim, B = elements that share a key's scale.

Tensors are ``layers.N.keys`` and ``layers.N.values``, each (T, H, D) in the cache's type. A cache in int8 stores codes,
of keys those of their Hadamard transform, and their scales: ``layers.N.key_scales`` (T, H, D/B) and
``layers.N.value_scales`` (T, H, 2), the logarithm and the inverse of each scale. Metadata: format, version, fingerprint
of the model, type, CPU level, token ids, set of RoPE frequencies, and a hash of all of it.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pyml_core.errors import one_line
from pyml_core.kv_layout import PAGE_TOKENS, VALUE_SCALES, KVLayout

from ..errors import CacheFileError, show
from ..files import checked_path, new_file
from .origin import Origin
from .tensor_file import NUMPY_TYPES, Kind, TensorFile, TensorFileError, write_tensors

U8Array = npt.NDArray[np.uint8]

FORMAT = "pyml-kv-cache"
VERSION = "3"

_HEADER_BYTES = 4 << 20  # always allowed for a header: enough for more token ids than most contexts have


class Contents(NamedTuple):
    """The contents of a saved cache.

    Attributes:
        ids: token ids of the positions.
        rope_set: index of the set of RoPE frequencies that keys were rotated with.
        pages: the pages of the positions.
    """

    ids: list[int]
    rope_set: int
    pages: Sequence[U8Array]


def save_cache(path: str | os.PathLike[str], origin: Origin, contents: Contents) -> None:
    """Write a cache to a file, which is put in place only when it is complete.

    Raises:
        CacheFileError: the file cannot be written.
    """
    path = checked_path(path)
    layout, length = origin.layout, len(contents.ids)
    layers = range(layout.n_layers)
    kinds = {name: kind for layer in layers for name, kind in _layer_kinds(layout, layer, length).items()}
    arrays = itertools.chain.from_iterable(_layer_arrays(layout, layer, contents) for layer in layers)
    metadata = _origin_metadata(origin) | {"ids": json.dumps(contents.ids), "rope_set": str(contents.rope_set)}
    try:
        with new_file(path) as file:
            write_tensors(file, kinds, arrays, metadata)
    except OSError as error:
        raise CacheFileError(f"{one_line(path)}: cannot save the KV cache: {error.strerror or error}") from None


def load_cache(path: str | os.PathLike[str], origin: Origin, max_length: int, vocab_size: int) -> Contents:
    """Read a file that :func:`save_cache` wrote; everything in it is checked before it is used.

    Args:
        path: the file.
        origin: required origin of the cache.
        max_length: maximum number of positions.
        vocab_size: token ids must be below.

    Raises:
        CacheFileError: there is no such file, or it is not such a cache, or it is damaged.
    """
    path = checked_path(path)
    layout = origin.layout
    try:
        with _opened(path, max_length) as file:
            _check_origin(file.metadata, origin)
            ids = _read_ids(file.metadata, max_length, vocab_size)
            rope_set = _read_rope_set(file.metadata)
            _check_tensors(file, layout, len(ids))
            pages = [layout.new_page() for _ in range(0, len(ids), PAGE_TOKENS)]
            for layer in range(layout.n_layers):
                tensors = {name: file.read(name) for name in _layer_kinds(layout, layer, len(ids))}
                _store_layer(layout, layer, tensors, pages)
            file.check_hash()
    except (OSError, ValueError, TensorFileError, CacheFileError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise CacheFileError(f"{one_line(path)}: cannot load the KV cache: {reason}") from None
    return Contents(ids, rope_set, pages)


def _opened(path: str, max_length: int) -> TensorFile:
    try:
        return TensorFile(path, max(_HEADER_BYTES, 16 * max_length))
    except TensorFileError as error:
        raise CacheFileError(f"expected a KV cache of pyml, found another file or a damaged one: {error}") from None


# ---- metadata


def _origin_metadata(origin: Origin) -> dict[str, str]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "model": origin.model,
        "dtype": origin.layout.dtype,
        "level": origin.cpu_level,
    }


def _check_origin(metadata: Mapping[str, str], origin: Origin) -> None:
    for key, expected in _origin_metadata(origin).items():
        found = metadata.get(key)
        if found != expected:
            shown = "none" if found is None else show(found)
            problems = {
                "format": f"expected a KV cache of pyml, found a file of format {shown}",
                "version": f"expected a KV cache of version {expected}, found version {shown}",
                "model": "expected a KV cache of this model, found one of another model or of other types of weights",
                "dtype": f"expected a KV cache in {expected}, found one in {shown}",
                "level": f"expected a KV cache of CPU level {expected}, found one of {shown}",
            }
            raise CacheFileError(problems[key])


def _read_ids(metadata: Mapping[str, str], max_length: int, vocab_size: int) -> list[int]:
    try:
        ids = json.loads(metadata.get("ids", ""))
    except (ValueError, RecursionError):
        raise CacheFileError("metadata ids: expected a JSON list of token ids") from None
    if not isinstance(ids, list) or not all(type(token) is int and 0 <= token < vocab_size for token in ids):
        raise CacheFileError(f"metadata ids: expected a list of token ids from 0 to {vocab_size - 1}")
    if len(ids) > max_length:
        raise CacheFileError(f"metadata ids: {len(ids)} tokens, the context holds at most {max_length}")
    return ids


def _read_rope_set(metadata: Mapping[str, str]) -> int:
    sets = {"0": 0, "1": 1}
    found = metadata.get("rope_set")
    if found not in sets:
        raise CacheFileError(f"metadata rope_set: expected '0' or '1', found {found!r:.100}")
    return sets[found]


# ---- tensors


def _check_tensors(file: TensorFile, layout: KVLayout, length: int) -> None:
    found = dict(file.tensors)
    for layer in range(layout.n_layers):
        for name, expected in _layer_kinds(layout, layer, length).items():
            kind = found.pop(name, None)
            if kind is None:
                raise CacheFileError(f"tensor {name}: missing")
            if kind.shape != expected.shape:
                raise CacheFileError(f"tensor {name}: expected shape {expected.shape}, found {kind.shape}")
            if kind.dtype != expected.dtype:
                raise CacheFileError(f"tensor {name}: expected {expected.dtype}, found {show(kind.dtype)}")
    if found:
        raise CacheFileError(f"tensor {show(min(found))}: unknown")


def _layer_kinds(layout: KVLayout, layer: int, length: int) -> dict[str, Kind]:
    """The tensors of one layer for ``length`` positions (T), in the order of the file."""
    heads, dim = layout.n_kv_heads, layout.head_dim
    dtype = {1: "I8", 2: "F16", 4: "F32"}[layout.numpy_dtype.itemsize]
    keys, values = {"keys": (dtype, dim)}, {"values": (dtype, dim)}
    if layout.int8:
        keys["key_scales"] = "F32", dim // layout.key_block
        values["value_scales"] = "F32", VALUE_SCALES
    return {
        f"layers.{layer}.{name}": Kind(kind, (length, heads, width)) for name, (kind, width) in (keys | values).items()
    }


def _layer_arrays(layout: KVLayout, layer: int, contents: Contents) -> list[npt.NDArray[Any]]:
    """One layer's keys and values (codes and scales, if int8), each (T, H, width)."""
    pages = [(*layout.load_keys(page, layer), *layout.load_values(page, layer)) for page in contents.pages]
    if not pages:
        return [np.empty(kind.shape, NUMPY_TYPES[kind.dtype]) for kind in _layer_kinds(layout, layer, 0).values()]
    return [np.concatenate(pieces)[: len(contents.ids)] for pieces in zip(*pages, strict=True)]


def _store_layer(
    layout: KVLayout, layer: int, tensors: Mapping[str, npt.NDArray[Any]], pages: Sequence[U8Array]
) -> None:
    """Write one layer's tensors to the pages; CacheFileError if a number is not finite."""
    for name, array in tensors.items():
        if not np.isfinite(array).all():
            raise CacheFileError(f"tensor {name}: expected finite numbers")
    for index, page in enumerate(pages):
        pieces = [array[index * PAGE_TOKENS : (index + 1) * PAGE_TOKENS] for array in tensors.values()]
        half = len(pieces) // 2
        layout.store_keys(page, layer, 0, pieces[:half])
        layout.store_values(page, layer, 0, pieces[half:])
