"""Features of this CPU, the kernel level in use, and the default number of threads.

One set of C sources is compiled once for each level: ``scalar``; ``avx2`` (AVX2 + FMA + F16C); ``avx_vnni`` (avx2 plus
AVX-VNNI); ``avx512`` (F, BW, VL, DQ); ``avx512_vnni`` (avx512 plus VNNI). The best level that the CPU and the operating
system support is used, unless the environment variable ``PYML_CPU_LEVEL`` names another supported one.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import _native
from .errors import PymlError, quoted

_forced: str | None = None


@functools.cache
def _known() -> tuple[tuple[str, bool, bool], ...]:
    """Name of each level, whether it is compiled in, and whether the CPU has it. A virtual CPU takes 80 us to tell."""
    return tuple(_native.levels())


def levels() -> list[str]:
    """Return the names of the levels that can run here, from the lowest to the best."""
    return [name for name, compiled, supported in _known() if compiled and supported]


def level() -> str:
    """Return the level in use: the best one, or the one that ``PYML_CPU_LEVEL`` names.

    Raises:
        PymlError: ``PYML_CPU_LEVEL`` is unknown, not compiled in, or not supported by this CPU.
    """
    if _forced is not None:
        return _forced
    wanted = os.environ.get("PYML_CPU_LEVEL")
    return _checked(wanted, "PYML_CPU_LEVEL") if wanted else levels()[-1]


def _checked(wanted: str, source: str) -> str:
    available = levels()
    known = [name for name, _, _ in _known()]
    if wanted not in known:
        raise PymlError(f"{source}: expected one of {', '.join(known)}, got {quoted(wanted)}")
    if wanted not in available:
        raise PymlError(f"{source}: this CPU does not support {wanted!r}; it has {', '.join(available)}")
    return wanted


@contextlib.contextmanager
def use_level(name: str) -> Iterator[None]:
    """Use this level for all programs made inside the context. For tests and benchmarks; not thread-safe."""
    global _forced
    before, _forced = _forced, _checked(name, "CPU level")
    try:
        yield
    finally:
        _forced = before


def default_threads() -> int:
    """Return the number of CPUs that this process may use, capped by its cgroup's quota."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_cpus()
    return max(1, min(cpus, math.ceil(quota) if quota else cpus, _native.THREADS_MAX))


@functools.cache
def _cgroup_cpus(root: Path = Path("/sys/fs/cgroup"), proc: Path = Path("/proc/self/cgroup")) -> float | None:
    """Return the smallest CPU quota of this process's control groups (v2 and v1), or None."""
    quotas = []
    try:
        entries = proc.read_text().splitlines()
    except OSError:
        return None
    for entry in entries:
        _, controllers, path = (entry.split(":", 2) + ["", ""])[:3]
        base = root if not controllers else root / controllers
        if controllers and "cpu" not in controllers.split(","):
            continue
        folder = base / path.lstrip("/")
        for place in (folder, *folder.parents):
            if place != root and root not in place.parents:
                break
            quotas += [quota for quota in (_quota_v2(place), _quota_v1(place)) if quota and quota > 0]
    return min(quotas, default=None)


def _quota_v2(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()[:2]
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _quota_v1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        return None if quota <= 0 else quota / int((folder / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError, ZeroDivisionError):
        return None


def cpu_info() -> dict[str, Any]:
    """Return the architecture, CPU model, levels (compiled, supported), level in use and default number of threads."""
    return {
        "machine": platform.machine(),
        "model": _model_name(),
        "level": level(),
        "levels": {name: {"compiled": built, "supported": supported} for name, built, supported in _native.levels()},
        "threads": default_threads(),
    }


def _model_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor()
