"""KV caches filled with numbers, and the numbers themselves."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyml_core import KVLayout
from pyml_nn.cache import KVCache

LAYOUT = KVLayout(2, 3, 10, "f16")
LENGTH = 70


def fill(cache: KVCache, ids: list[int], seed: int = 0) -> None:
    """Imitate a run: write keys and values of these tokens, here whole random pages."""
    rng = np.random.default_rng(seed)
    start = cache.length
    cache.reserve(len(ids))
    for index in range(start // 64, len(cache.pages)):
        for layer in range(cache.layout.n_layers):
            layout, page = cache.layout, cache.pages[index]
            for load, store in ((layout.load_keys, layout.store_keys), (layout.load_values, layout.store_values)):
                parts = load(page, layer)
                store(page, layer, 0, [(30 * rng.standard_normal(part.shape)).astype(part.dtype) for part in parts])
    cache.append(ids)


def filled(length: int = LENGTH, layout: KVLayout = LAYOUT, model: str = "model") -> KVCache:
    cache = KVCache(layout, 1000, model)
    fill(cache, list(range(length)))
    return cache


def contents(cache: KVCache) -> list[Any]:
    """Keys and values of all positions, by layer."""
    result = []
    for layer in range(cache.layout.n_layers):
        for load in (cache.layout.load_keys, cache.layout.load_values):
            parts = zip(*(load(page, layer) for page in cache.pages), strict=True)
            result += [np.concatenate(part)[: cache.length] for part in parts]
    return result
