"""The KV cache of a sequence, and the files that it is saved in."""

from __future__ import annotations

from .kv_cache import KVCache
from .origin import Origin, Origins

__all__ = ["KVCache", "Origin", "Origins"]
