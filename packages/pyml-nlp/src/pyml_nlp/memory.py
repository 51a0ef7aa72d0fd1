"""How much memory this process may still take, and the refusal of what would not fit.

Linux says what is available to all (``/proc/meminfo``); a control group (version 1 or 2, at any level above the
process) and the process's own address-space limit (``ulimit -v``) may allow less.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

from pyml_core.errors import OutOfMemoryError

_ROOT = Path("/")


def require(needed: int, what: str) -> None:
    """Refuse ``what`` if it needs more bytes than there are.

    Raises:
        OutOfMemoryError: with both figures.
    """
    available = available_memory()
    if needed > available:
        raise OutOfMemoryError(f"{what} needs {gigabytes(needed)} of memory, {gigabytes(available)} are available")


def available_memory(root: Path = _ROOT) -> int:
    """Bytes that this process can still take; ``root`` is where ``/proc`` and ``/sys`` are looked for."""
    return max(0, min(_limits(root), default=1 << 62))


def gigabytes(count: int) -> str:
    """A number of bytes for people: ``1.23 GB``, ``456.7 MB``."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _limits(root: Path) -> Iterator[int]:
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024
    yield from _cgroup_limits(root)
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    pages = _read(root / "proc/self/statm").split()
    if limit != resource.RLIM_INFINITY and pages:
        yield limit - int(pages[0]) * resource.getpagesize()


def _cgroup_limits(root: Path) -> Iterator[int]:
    """What is left in every control group that the process is in."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount, limit_file, usage_file = root / "sys/fs/cgroup", "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            mount, limit_file, usage_file = (
                root / "sys/fs/cgroup/memory",
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
            )
        else:
            continue
        # Inside a container the path may be that of the host, of which only the mount's own root is visible.
        group = mount / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(mount):
                yield from _left(folder, limit_file, usage_file)


def _left(folder: Path, limit_file: str, usage_file: str) -> Iterator[int]:
    limit, usage = _read(folder / limit_file).strip(), _read(folder / usage_file).strip()
    if not limit.isdigit() or not usage.isdigit():
        return  # "max", or no such file
    # Pages of files that were not used lately count as usage, but are given up at need.
    cache = [
        line.split()[1] for line in _read(folder / "memory.stat").splitlines() if line.startswith("inactive_file ")
    ]
    yield int(limit) - int(usage) + (int(cache[0]) if cache else 0)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
