"""CPU levels and numbers of threads: defaults, PYML_CPU_LEVEL, and quotas of control groups."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyml_core import PymlError, cpu, cpu_info
from pyml_core.cpu import _cgroup_cpus, default_threads, level, levels, use_level


def in_a_new_process(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run code in a new process without this process's PYML_CPU_LEVEL."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYML_CPU_LEVEL"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env={**inherited, **env}, capture_output=True, text=True, timeout=60, check=False)


# ---- levels


def test_info() -> None:
    info = cpu_info()
    assert list(info["levels"]) == ["scalar", "avx2", "avx_vnni", "avx512", "avx512_vnni"]
    assert info["levels"]["scalar"] == {"compiled": True, "supported": True}
    assert [name for name, state in info["levels"].items() if state["compiled"] and state["supported"]] == levels()
    assert info["level"] == level()
    assert info["threads"] == default_threads() >= 1
    assert json.loads(json.dumps(info)) == info


def test_the_best_level_is_taken() -> None:
    done = in_a_new_process("from pyml_core import cpu; print(cpu.level(), *cpu.levels())", PYML_CPU_LEVEL="")
    best, *every = done.stdout.split()
    assert best == every[-1]
    assert every[0] == "scalar"


def test_supported_levels_build_on_each_other() -> None:
    """A CPU that supports a level supports the levels that it extends."""
    supported = {name for name, state in cpu_info()["levels"].items() if state["supported"]}
    for name, below in (("avx2", "scalar"), ("avx_vnni", "avx2"), ("avx512", "avx2"), ("avx512_vnni", "avx512")):
        assert name not in supported or below in supported


@pytest.mark.parametrize("name", levels())
def test_the_environment_caps_the_level(name: str) -> None:
    code = "import numpy, pyml_core.cpu; print(pyml_core.cpu.level(), pyml_core.Program(1).level)"
    assert in_a_new_process(code, PYML_CPU_LEVEL=name).stdout.split() == [name, name]


def test_an_unknown_level_is_an_error() -> None:
    code = "import pyml_core; pyml_core.Program(1)"
    for wrong in ("sse9", "AVX2", "avx2,avx512", " "):
        done = in_a_new_process(code, PYML_CPU_LEVEL=wrong)
        assert done.returncode == 1
        known = "scalar, avx2, avx_vnni, avx512, avx512_vnni"
        assert done.stderr.endswith(f"PymlError: PYML_CPU_LEVEL: expected one of {known}, got {wrong!r}\n")


def test_a_level_that_the_cpu_lacks_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = [name for name, state in cpu_info()["levels"].items() if not state["supported"]]
    for name in missing:
        done = in_a_new_process("import pyml_core; pyml_core.Program(1)", PYML_CPU_LEVEL=name)
        assert done.returncode == 1
        assert f"PYML_CPU_LEVEL: this CPU does not support '{name}'; it has {', '.join(levels())}" in done.stderr
    known = [("scalar", True, True), ("avx2", True, False)]
    monkeypatch.setattr(cpu, "_known", lambda: known)
    monkeypatch.setenv("PYML_CPU_LEVEL", "avx2")
    with pytest.raises(PymlError, match="PYML_CPU_LEVEL: this CPU does not support 'avx2'; it has scalar"):
        level()


def test_use_level() -> None:
    before = level()
    with use_level("scalar"):
        assert level() == "scalar"
        with use_level(levels()[-1]):
            assert level() == levels()[-1]
        assert level() == "scalar"
    with pytest.raises(RuntimeError, match="inside"), use_level("scalar"):
        raise RuntimeError("inside")
    assert level() == before
    with pytest.raises(PymlError, match=r"CPU level: expected one of scalar, .*, got 'sse9'"), use_level("sse9"):
        pass
    assert level() == before


# ---- threads


class Tree:
    """A fake /sys/fs/cgroup and /proc/self/cgroup."""

    def __init__(self, folder: Path) -> None:
        self.root, self.proc = folder / "cgroup", folder / "self"
        self.root.mkdir()

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def cpus(self, text: str) -> float | None:
        self.proc.write_text(text)
        _cgroup_cpus.cache_clear()
        return _cgroup_cpus(self.root, self.proc)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_quota_v2(tree: Tree) -> None:
    tree.write("cpu.max", "max 100000\n")
    tree.write("a/cpu.max", "250000 100000\n")
    tree.write("a/b/cpu.max", "400000 100000\n")
    tree.write("a/b/c/cpu.max", "max 100000\n")
    assert tree.cpus("0::/\n") is None
    assert tree.cpus("0::/a\n") == 2.5
    assert tree.cpus("0::/a/b\n") == 2.5  # the quota of the outer group applies too
    assert tree.cpus("0::/a/b/c\n") == 2.5
    tree.write("a/b/c/cpu.max", "50000 100000\n")
    assert tree.cpus("0::/a/b/c\n") == 0.5
    assert tree.cpus("0::/elsewhere/not/mounted\n") is None
    assert tree.cpus("0::/a/gone\n") == 2.5


def test_quota_v1(tree: Tree) -> None:
    """Only the cpu controller's hierarchy counts; -1 means no quota."""
    tree.write("cpu,cpuacct/docker/x/cpu.cfs_quota_us", "150000\n")
    tree.write("cpu,cpuacct/docker/x/cpu.cfs_period_us", "100000\n")
    tree.write("cpu,cpuacct/cpu.cfs_quota_us", "-1\n")
    tree.write("cpu,cpuacct/cpu.cfs_period_us", "100000\n")
    tree.write("memory/docker/x/cpu.cfs_quota_us", "1\n")
    tree.write("memory/docker/x/cpu.cfs_period_us", "100000\n")
    lines = "5:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n3:cpuset:/\n1:name=systemd:/docker/x\n0::/system.slice\n"
    assert tree.cpus(lines) == 1.5
    assert tree.cpus("4:cpu,cpuacct:/\n") is None


@pytest.mark.parametrize("text", ["", "max", "1", "a b", "100000 0", "-1 100000", "0 100000"])
def test_quotas_that_are_none(text: str, tree: Tree) -> None:
    tree.write("cpu.max", text)
    tree.write("cpu.cfs_quota_us", text)
    tree.write("cpu.cfs_period_us", "0")
    found = tree.cpus("0::/\nnonsense\n")
    assert found is None or found > 0


def test_no_control_groups(tmp_path: Path) -> None:
    _cgroup_cpus.cache_clear()
    assert _cgroup_cpus(tmp_path / "none", tmp_path / "nothing") is None


def test_default_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPUs of this process, capped by the quota, at least one."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)))
    for quota, threads in ((None, 6), (0.1, 1), (1.0, 1), (2.5, 3), (6.0, 6), (100.0, 6)):
        monkeypatch.setattr(cpu, "_cgroup_cpus", lambda quota=quota: quota)
        assert default_threads() == threads
    monkeypatch.setattr(cpu, "_cgroup_cpus", lambda: None)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(1000)))
    assert default_threads() == 256
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert default_threads() == 1


def test_affinity_counts() -> None:
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("no CPU affinity on this system")
    code = (
        "import os, pyml_core; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); "
        "print(pyml_core.cpu.default_threads())"
    )
    assert in_a_new_process(code).stdout == "1\n"
