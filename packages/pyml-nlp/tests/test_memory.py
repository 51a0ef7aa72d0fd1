"""How much memory there is, from made-up ``/proc`` and ``/sys`` trees."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from pyml_core.errors import OutOfMemoryError
from pyml_nlp import memory

GB = 10**9


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


MEMINFO = {"proc/meminfo": "MemTotal:       32000000 kB\nMemFree:  1000 kB\nMemAvailable:   20000000 kB\n"}


def test_what_linux_says(tmp_path: Path) -> None:
    assert memory.available_memory(tree(tmp_path, MEMINFO)) == 20_000_000 * 1024


def test_control_groups_of_version_2(tmp_path: Path) -> None:
    files = MEMINFO | {
        "proc/self/cgroup": "0::/outer/inner\n",
        "sys/fs/cgroup/outer/memory.max": f"{4 * GB}\n",
        "sys/fs/cgroup/outer/memory.current": f"{1 * GB}\n",
        "sys/fs/cgroup/outer/inner/memory.max": "max\n",
        "sys/fs/cgroup/outer/inner/memory.current": "5\n",
    }
    assert memory.available_memory(tree(tmp_path, files)) == 3 * GB


def test_file_pages_count_as_available(tmp_path: Path) -> None:
    files = MEMINFO | {
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/memory.max": f"{4 * GB}",
        "sys/fs/cgroup/memory.current": f"{3 * GB}",
        "sys/fs/cgroup/memory.stat": f"anon 5\ninactive_file {2 * GB}\nactive_file 7\n",
    }
    assert memory.available_memory(tree(tmp_path, files)) == 3 * GB


def test_control_groups_of_version_1(tmp_path: Path) -> None:
    files = MEMINFO | {
        "proc/self/cgroup": "3:cpu,cpuacct:/x\n2:memory:/box\n",
        "sys/fs/cgroup/memory/box/memory.limit_in_bytes": f"{2 * GB}",
        "sys/fs/cgroup/memory/box/memory.usage_in_bytes": f"{3 * GB}",
    }
    assert memory.available_memory(tree(tmp_path, files)) == 0  # over its limit


def test_a_group_of_the_host_seen_from_inside_a_container(tmp_path: Path) -> None:
    files = MEMINFO | {
        "proc/self/cgroup": "0::/docker/0123abcd\n",
        "sys/fs/cgroup/memory.max": f"{2 * GB}",
        "sys/fs/cgroup/memory.current": f"{1 * GB}",
    }
    assert memory.available_memory(tree(tmp_path, files)) == 1 * GB


def test_the_limit_of_the_address_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = MEMINFO | {"proc/self/statm": "1000 5 5 5 0 5 0\n"}
    monkeypatch.setattr(resource, "getrlimit", lambda _: (GB, GB))
    assert memory.available_memory(tree(tmp_path, files)) == GB - 1000 * resource.getpagesize()


def test_nothing_known(tmp_path: Path) -> None:
    assert memory.available_memory(tmp_path) == 1 << 62


def test_this_machine() -> None:
    assert 0 < memory.available_memory() < 1 << 50


def test_require(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 1_500_000_000)
    memory.require(1_500_000_000, "a thing")
    with pytest.raises(OutOfMemoryError, match=r"^a thing needs 1.60 GB of memory, 1.50 GB are available$"):
        memory.require(1_600_000_000, "a thing")


@pytest.mark.parametrize(("count", "text"), [(0, "0.0 MB"), (456_700_000, "456.7 MB"), (1_230_000_000, "1.23 GB")])
def test_gigabytes(count: int, text: str) -> None:
    assert memory.gigabytes(count) == text
