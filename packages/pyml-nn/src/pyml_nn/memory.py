"""The memory that a model needs, and the memory that is available."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from pyml_core.errors import OutOfMemoryError, PymlError, quoted
from pyml_core.kv_layout import INT8_MULTIPLE, KVLayout

from .config import Dimensions


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes that a model needs with one sequence of a given length.

    Attributes:
        weights: all packed weights.
        kv_cache: keys and values of the sequence.
        activations: buffers of a program run.
    """

    weights: int
    kv_cache: int
    activations: int

    @property
    def total(self) -> int:
        """The sum of all three."""
        return self.weights + self.kv_cache + self.activations

    def check(self, available: int | None = None) -> None:
        """Raise :class:`OutOfMemoryError` with both figures if :attr:`total` exceeds ``available``.

        None: :func:`available_memory`.
        """
        available = available_memory() if available is None else available
        if self.total > available:
            raise OutOfMemoryError(
                f"memory: expected at least {megabytes(self.total)} to be free (weights {megabytes(self.weights)}, "
                f"KV cache {megabytes(self.kv_cache)}, activations {megabytes(self.activations)}), "
                f"found {megabytes(available)}"
            )


KV_DTYPES = ("auto", "f32", "f16", "int8")
"""Types of the KV cache that can be requested."""


def kv_layout(config: Dimensions, dtype: str, quantized: bool, kv_dtype: str = "auto") -> KVLayout:
    """The geometry of a model's KV cache.

    Args:
        config: the sizes.
        dtype: type of the model's matrices, as requested.
        quantized: whether any matrix is quantised.
        kv_dtype: one of :data:`KV_DTYPES`. ``auto`` is f32 if the whole model computes in f32, int8 if matrices are
            quantised and the width of a head is a multiple of a block, else f16.

    Raises:
        PymlError: an unknown ``kv_dtype``, or int8 with heads whose width is not a multiple of a block.
    """
    whole = config.head_dim % INT8_MULTIPLE == 0
    if kv_dtype not in KV_DTYPES:
        raise PymlError(f"kv_dtype: expected one of {', '.join(KV_DTYPES)}, got {quoted(kv_dtype)}")
    if kv_dtype == "int8" and not whole:
        raise PymlError(
            f"kv_dtype int8: expected heads of a multiple of {INT8_MULTIPLE} elements, found {config.head_dim}"
        )
    if kv_dtype == "auto":
        kv_dtype = "f32" if dtype == "f32" else "int8" if quantized and whole else "f16"
    return KVLayout(config.n_layers, config.n_kv_heads, config.head_dim, kv_dtype)


def activation_bytes(config: Dimensions, max_tokens: int) -> int:
    """Upper estimate of the bytes of a program's buffers: activations in float32 and int8, and a row of logits."""
    row = (
        4 * config.hidden_size
        + 2 * (config.n_heads + config.n_kv_heads) * config.head_dim
        + 3 * max(config.intermediate_size, config.expert_width * config.experts_per_token)
        + 2 * config.hidden_size * config.experts_per_token
        + 2 * config.head_dim
    )
    return 5 * row * max_tokens + 4 * config.vocab_size


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that this process can still allocate.

    This is the memory that Linux reports as available, or less if a control group (version 1 or 2, at any level above
    the process) or the limit of the address space (``ulimit -v``) allows less. ``root`` has ``/proc`` and ``/sys``.
    """
    return max(0, min(_limits(root), default=1 << 62))


def megabytes(count: int) -> str:
    """Format a number of bytes for a message."""
    return f"{count / 1e6:.1f} MB"


def _limits(root: Path) -> Iterator[int]:
    """Yield the bytes that each limit leaves.

    perf: every text that gets a place looks at these files, so paths are strings here, not :class:`Path`.
    """
    base = os.fspath(root).rstrip("/")
    available = _field(f"{base}/proc/meminfo", b"MemAvailable:")
    if available is not None:
        yield available * 1024
    for line in _read(f"{base}/proc/self/cgroup").decode(errors="replace").splitlines():
        _, controllers, path = (line.split(":", 2) + ["", ""])[:3]
        if controllers == "":
            yield from _group_limits(f"{base}/sys/fs/cgroup", path, "memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
            yield from _group_limits(f"{base}/sys/fs/cgroup/memory", path, *names)
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        pages = _number(f"{base}/proc/self/statm")
        if pages is not None:
            yield limit - pages * resource.getpagesize()


def _group_limits(mount: str, path: str, limit_file: str, usage_file: str) -> Iterator[int]:
    """Yield the bytes left in a control group and in those above it."""
    # Inside a container the path may be the host's, and only the mount's own root is visible.
    names = [name for name in path.split("/") if name]
    for count in range(len(names), -1, -1):
        group = "/".join([mount, *names[:count]])
        limit = _number(f"{group}/{limit_file}")
        usage = None if limit is None else _number(f"{group}/{usage_file}")
        if limit is not None and usage is not None:
            # Cached pages of files count as usage, but the kernel releases them when memory is needed.
            yield limit - usage + (_field(f"{group}/memory.stat", b"inactive_file") or 0)


def _number(path: str) -> int | None:
    """The number at the start of a file, if there is one."""
    words = _read(path).split(None, 1)
    return int(words[0]) if words and words[0].isdigit() else None


def _field(path: str, key: bytes) -> int | None:
    """The number after a key in a file of ``key number`` lines."""
    for line in _read(path).splitlines():
        if line.startswith(key):
            words = line.split()
            if words[0] == key and len(words) > 1 and words[1].isdigit():
                return int(words[1])
    return None


def _read(path: str) -> bytes:
    """The contents of a file; nothing of one that cannot be read."""
    try:
        with FileIO(path) as file:
            return file.readall()
    except OSError:
        return b""
