"""Available memory, from files as Linux writes them."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import pytest
from nn_models import LLAMA, MIXTRAL, make

from pyml_nn.memory import activation_bytes, available_memory

GIB = 1 << 30


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MEMINFO = {"proc/meminfo": f"MemTotal: {16 << 20} kB\nMemFree: 1 kB\nMemAvailable: {8 << 20} kB\n"}


@pytest.mark.parametrize("values", [LLAMA, MIXTRAL], ids=lambda values: str(values["model_type"]))
def test_activations_are_estimated_from_above(values: dict[str, Any]) -> None:
    model = make({**values, "hidden_size": 192, "intermediate_size": 192}, dtype="q8_0", max_tokens=64)
    buffers = [buf for buf in model.program.buffers if buf is not model.program.result]
    rows = sum(buf.copies * buf.width * (5.4 if buf.quantized else 4) for buf in buffers)
    assert 0.8 < 64 * rows / activation_bytes(model.config, 64) <= 1


def test_of_the_whole_machine(tmp_path: Path) -> None:
    assert available_memory(write(tmp_path, MEMINFO)) == 8 * GIB


def test_nothing_known(tmp_path: Path) -> None:
    assert available_memory(tmp_path) == 1 << 62


def test_cgroup_v2_and_those_above_it(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/a/b\n",
        "sys/fs/cgroup/a/b/memory.max": "max\n",
        "sys/fs/cgroup/a/b/memory.current": f"{GIB}\n",
        "sys/fs/cgroup/a/memory.max": f"{3 * GIB}\n",
        "sys/fs/cgroup/a/memory.current": f"{2 * GIB}\n",
        "sys/fs/cgroup/a/memory.stat": f"anon 1\nfile 2\ninactive_file {GIB // 2}\n",
    }
    assert available_memory(write(tmp_path, MEMINFO | files)) == GIB + GIB // 2


def test_cgroup_v2_of_a_container(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/docker/0123\n",  # the host's path; the container sees only its root
        "sys/fs/cgroup/memory.max": f"{2 * GIB}\n",
        "sys/fs/cgroup/memory.current": f"{GIB}\n",
    }
    assert available_memory(write(tmp_path, MEMINFO | files)) == GIB


def test_cgroup_v1(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "9:memory:/x\n3:cpu,cpuacct:/x\n",
        "sys/fs/cgroup/memory/x/memory.limit_in_bytes": f"{2 * GIB}\n",
        "sys/fs/cgroup/memory/x/memory.usage_in_bytes": f"{3 * GIB}\n",
    }
    assert available_memory(write(tmp_path, MEMINFO | files)) == 0


def test_limit_of_the_address_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = MEMINFO | {"proc/self/statm": "1000 5 5 5 0 5 0\n"}
    monkeypatch.setattr(resource, "getrlimit", lambda _: (GIB, GIB))
    assert available_memory(write(tmp_path, files)) == GIB - 1000 * resource.getpagesize()


def test_this_machine() -> None:
    assert 0 < available_memory() < 1 << 50
