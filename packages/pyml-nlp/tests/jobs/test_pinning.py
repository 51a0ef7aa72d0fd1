"""Workers on CPUs: whole nodes and cores, within the affinity mask and the quota."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from thread_cases import in_child

from pyml_nlp.errors import ArgumentError
from pyml_nlp.jobs.pinning import Cpu, Place, allowed_cpus, places, ranges


def machine(nodes: int, cores: int, siblings: int = 1) -> list[Cpu]:
    """CPUs as servers number them: the second thread of every core after the first ones of all cores."""
    total = nodes * cores
    found = [
        Cpu(thread * total + core, core // cores, core // cores * cores, core)
        for thread in range(siblings)
        for core in range(total)
    ]
    return sorted(found, key=lambda cpu: (cpu.node, cpu.cache, cpu.core, cpu.number))


def cpus_of(found: list[Place]) -> list[str | None]:
    return [None if place.cpus is None else ranges(place.cpus) for place in found]


def test_without_numbers_each_node_has_a_worker() -> None:
    found = places(cpus=machine(2, 4, 2), usable=16)
    assert cpus_of(found) == ["0-3,8-11", "4-7,12-15"]
    assert [place.threads for place in found] == [8, 8]


def test_one_worker_of_one_node_is_not_bound() -> None:
    assert places(cpus=machine(1, 4), usable=4) == [Place(None, 4)]


def test_a_quota_bounds_the_threads_and_the_workers() -> None:
    assert [place.threads for place in places(cpus=machine(2, 8), usable=4)] == [2, 2]
    assert places(cpus=machine(2, 8), usable=1) == [Place(None, 1)]
    assert [place.threads for place in places(3, cpus=machine(1, 8), usable=2)] == [1, 1, 1]


def test_threads_alone_give_as_many_workers_as_fit() -> None:
    assert [place.threads for place in places(threads=8, cpus=machine(2, 4), usable=8)] == [8]
    assert [place.threads for place in places(threads=4, cpus=machine(2, 4), usable=8)] == [4, 4]


def test_workers_of_a_node_share_it_and_cores_stay_whole() -> None:
    found = places(4, 2, cpus=machine(2, 4, 2), usable=16)
    assert cpus_of(found) == ["0-1,8-9", "2-3,10-11", "4-5,12-13", "6-7,14-15"]


def test_workers_that_do_not_fit_into_nodes_have_equal_parts() -> None:
    found = places(2, 4, cpus=[*machine(1, 2), *(Cpu(n, 1, 2, n) for n in range(2, 8))], usable=8)
    assert cpus_of(found) == ["0-3", "4-7"]
    assert [len(place.cpus or ()) for place in places(3, 2, cpus=machine(1, 8), usable=8)] == [3, 3, 2]


def test_more_threads_than_cpus_are_not_bound() -> None:
    assert places(4, 2, cpus=machine(1, 4), usable=4) == [Place(None, 2)] * 4
    assert places(2, 2, "none", cpus=machine(1, 4), usable=4) == [Place(None, 2)] * 2


def test_cores_gives_each_thread_a_core_of_one_node() -> None:
    assert cpus_of(places(2, 3, "cores", cpus=machine(2, 4, 2), usable=16)) == ["0-2", "4-6"]
    assert cpus_of(places(2, 8, "cores", cpus=machine(2, 4, 2), usable=16)) == ["0-3,8-11", "4-7,12-15"]
    assert cpus_of(places(1, 6, "cores", cpus=machine(2, 4), usable=8)) == ["0-5"]  # no node has six


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "workers must be > 0, got 0"),
        ((1, 0), "threads must be > 0, got 0"),
        ((True,), "workers must be a whole number, got True"),
        ((1, 1, "numa"), "pin must be auto, cores or none, got 'numa'"),
        ((3, 2, "cores"), "pin 'cores' needs a CPU for each thread, got 3 x 2 threads on 4 CPUs"),
    ],
)
def test_invalid_numbers(arguments: tuple[int, ...], message: str) -> None:
    with pytest.raises(ArgumentError) as error:
        places(*arguments, cpus=machine(1, 4), usable=4)  # type: ignore[arg-type]
    assert str(error.value) == message


def test_the_systems_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for node, cpus in enumerate(("0-1,4-5", "2-3,6-7")):
        folder = tmp_path / f"node/node{node}"
        folder.mkdir(parents=True)
        (folder / "cpulist").write_text(cpus + "\n")
    for cpu in range(8):
        folder = tmp_path / f"cpu/cpu{cpu}"
        (folder / "topology").mkdir(parents=True)
        (folder / "topology/thread_siblings_list").write_text(f"{cpu % 4},{cpu % 4 + 4}\n")
        for index, shared in enumerate((str(cpu), "0-7")):
            (folder / f"cache/index{index}").mkdir(parents=True)
            (folder / f"cache/index{index}/shared_cpu_list").write_text(shared)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 4, 6}, raising=False)
    assert allowed_cpus(tmp_path) == [
        Cpu(0, 0, 0, 0),
        Cpu(4, 0, 0, 0),
        Cpu(1, 0, 0, 1),
        Cpu(2, 1, 0, 2),
        Cpu(6, 1, 0, 2),
    ]


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container may hide them: each CPU is a core of one node."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5}, raising=False)
    assert allowed_cpus(tmp_path) == [Cpu(3, 0, 0, 3), Cpu(5, 0, 0, 5)]
    (tmp_path / "node/node0").mkdir(parents=True)
    (tmp_path / "node/node0/cpulist").write_text("0-x")
    assert [cpu.node for cpu in allowed_cpus(tmp_path)] == [0, 0]


def test_ranges() -> None:
    assert ranges([5, 0, 1, 2, 7]) == "0-2,5,7"
    assert str(Place((0, 1), 2)) == "2 threads on CPU 0-1"
    assert str(Place(None, 1)) == "1 thread"


@pytest.mark.process
def test_a_process_enters_its_place() -> None:
    cpu = min(os.sched_getaffinity(0))

    def child() -> None:
        Place((cpu,), 1).enter()
        assert os.sched_getaffinity(0) == {cpu}

    in_child(child)
