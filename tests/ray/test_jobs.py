"""Jobs on a Ray cluster: the same digest as in one process, whatever dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyml_nlp import jobs, ray_session
from pyml_nlp.jobs.errors import JobError

N_ROWS = 60
SECONDS = 120.0


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    lines = [json.dumps({"id": i, "prompt": f"Row number {i} of a job"}) for i in range(N_ROWS)]
    path.write_text("\n".join(lines) + "\n")
    return path


def planned(rows: Path, model: Path, folder: Path, **options: Any) -> jobs.Job:
    settings: dict[str, Any] = {"max_tokens": 1500, "temperature": 1.0, "seed": 3, **options}
    return jobs.plan([str(rows)], str(folder), model=str(model), **settings)


@pytest.fixture(scope="module")
def digest(rows: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of the job in one process."""
    job = planned(rows, model, tmp_path_factory.mktemp("alone") / "job")
    list(job.run("here", threads=1))
    totals = job.finish()
    assert totals is not None
    return str(totals["digest"])


@pytest.fixture(scope="module")
def cluster(place: Path) -> Iterator[Any]:
    """A cluster of this machine with four logical CPUs, whatever it has."""
    import ray

    ray_session.require()
    with ray_session.session("local", cpus=4):
        yield ray


def finished(job: jobs.Job, digest: str) -> None:
    totals = job.finish()
    assert totals is not None
    assert (totals["rows"], totals["errors"], totals["digest"]) == (N_ROWS, 0, digest)


def workers() -> list[int]:
    """Processes of workers that are making a shard."""
    lines = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True).stdout.splitlines()
    return [int(line.split()[0]) for line in lines if "ray::Host.run" in line]


def test_the_digest_is_that_of_one_process(cluster: Any, rows: Path, model: Path, digest: str, tmp_path: Path) -> None:
    job = planned(rows, model, tmp_path / "job", rows_per_shard=7)
    found = list(job.run("ray", address="auto", threads=1, workers=2))
    assert sorted(one.shard for one in found) == list(range(job.n_shards))
    assert job.n_shards == 9
    finished(job, digest)


def test_a_killed_worker_costs_its_shard_alone(
    cluster: Any, rows: Path, model: Path, digest: str, tmp_path: Path
) -> None:
    job = planned(rows, model, tmp_path / "job", rows_per_shard=20)
    told: list[str] = []
    killed = 0
    end = time.monotonic() + SECONDS
    found = []

    def kill_once(_: object) -> None:
        nonlocal killed
        running = workers()
        if running and not killed:
            os.kill(running[0], signal.SIGKILL)
            killed = running[0]

    run = job.run("ray", address="auto", threads=1, workers=2, tell=told.append, together=1, show=kill_once)
    for result in run:
        found.append(result)
        assert time.monotonic() < end
    assert killed
    assert any("has died while it made shard" in line for line in told)
    finished(job, digest)


def test_no_place_is_told_and_ends_when_there_is_one(
    cluster: Any, rows: Path, model: Path, digest: str, tmp_path: Path
) -> None:
    job = planned(rows, model, tmp_path / "job", rows_per_shard=30)
    blocker = cluster.remote(num_cpus=4)(_Blocker).remote()
    cluster.get(blocker.ready.remote(), timeout=60)
    told: list[str] = []

    def tell(line: str) -> None:
        told.append(line)
        cluster.kill(blocker)

    list(job.run("ray", address="auto", threads=1, tell=tell, stall_seconds=2.0))
    assert told[0] == "No worker has a place: each needs 1 CPUs, the cluster has 0 free of 4"
    finished(job, digest)


class _Blocker:
    def ready(self) -> bool:
        return True


def test_another_model_is_refused_before_any_load(cluster: Any, rows: Path, model: Path, tmp_path: Path) -> None:
    job = planned(rows, model, tmp_path / "job")
    text = (tmp_path / "job" / "manifest.json").read_text()
    level = job.manifest.cpu_level
    (tmp_path / "job" / "manifest.json").write_text(text.replace(f'"{level}"', '"scalar"'))
    with pytest.raises(JobError, match="scalar"):
        list(jobs.open(str(tmp_path / "job")).run("ray", address="auto", threads=1))


def test_ctrl_c_ends_in_seconds_and_the_next_run_goes_on(
    cluster: Any, rows: Path, model: Path, digest: str, tmp_path: Path
) -> None:
    job = planned(rows, model, tmp_path / "job", rows_per_shard=20)
    address = cluster.get_runtime_context().gcs_address
    command = [sys.executable, "-m", "pyml_nlp", "batch", "run", str(tmp_path / "job"), "--ray", address]
    options = ["-t", "1", "--together", "1"]
    process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + SECONDS
    while not workers() and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    start = time.monotonic()
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - start < 3.5
    assert process.returncode == 130
    assert "Traceback" not in said
    ended = subprocess.run([*command, "-t", "1"], capture_output=True, text=True, timeout=SECONDS)
    assert ended.returncode == 0, ended.stderr
    assert all("ray" not in line.lower() for line in ended.stderr.splitlines())
    finished(job, digest)


def test_a_machine_that_joins_goes_on_with_what_a_lost_one_has_left(
    place: Path, rows: Path, model: Path, digest: str, tmp_path: Path
) -> None:
    program = _LOST.format(folder=str(tmp_path / "job"), temporary=str(place / "ray"))
    planned(rows, model, tmp_path / "job", rows_per_shard=10)
    environment = {**os.environ, "RAY_health_check_period_ms": "500", "RAY_health_check_failure_threshold": "3"}
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=150, env=environment
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert "has died while it made shard" in ended.stdout
    finished(jobs.open(str(tmp_path / "job")), digest)


_LOST = """
import os
from pyml_nlp import jobs, ray_session
ray_session.require()
from ray.cluster_utils import Cluster
import ray
os.makedirs({temporary!r}, exist_ok=True)
cluster = Cluster(initialize_head=True, head_node_args={{"num_cpus": 0}})
first = cluster.add_node(num_cpus=1)
job = jobs.open({folder!r})
lost = False
def show(snapshot):
    global lost
    if snapshot.shards_done and not lost:
        lost = True
        cluster.remove_node(first, allow_graceful=False)
        cluster.add_node(num_cpus=1)
for result in job.run("ray", address=cluster.address, threads=1, together=1, show=show, tell=print):
    pass
cluster.shutdown()
"""
