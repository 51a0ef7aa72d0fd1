"""``pyml batch run``, ``status`` and ``verify`` as processes, on tiny random models."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import pyml_nlp.jobs
from pyml_nlp.cli.job_run import command
from pyml_nlp.jobs import Job
from pyml_nlp.options.load import LoadOptions
from tests.helpers import tiny_files, tiny_models
from tests.helpers.processes import drop_privileges, fill_disk

pytestmark = pytest.mark.process

EXAMPLES = Path(__file__).resolve().parents[2] / "deploy/jobs"
ONE = ("--workers", "1", "--threads", "1")
TWO = ("--workers", "2", "--threads", "1")


def planned(folder: Path, model: Path, rows: int = 40, **options: Any) -> Job:
    """A job of rows that are sampled, some with options of their own."""
    lines = [{"id": f"r{row}", "prompt": f"the cat {row} sat", "max_tokens": 2 + row % 5} for row in range(rows)]
    source = folder / "in.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return pyml_nlp.jobs.plan(source, folder / "job", model=model, seed=5, **{"rows_per_shard": 10, **options})


def totals(job: Job) -> Any:
    return json.loads((Path(job.folder) / "_SUCCESS").read_text())


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def lengthy(tmp_path: Path, endless: Path) -> Job:
    """A job that takes minutes: each text has very many tokens."""
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps({"prompt": f"the cat {row}"}) + "\n" for row in range(40)))
    return pyml_nlp.jobs.plan(source, tmp_path / "job", model=endless, max_tokens=100_000, rows_per_shard=10)


def begun(job: Job) -> bool:
    """Whether rows are under way."""
    return any("row" in path.read_text() for path in Path(job.folder, "shards").glob("*.attempts"))


def test_run_status_verify(commands: Any, model: Path, tmp_path: Path) -> None:
    job = planned(tmp_path, model)
    status = commands.run("pyml", "batch", "status", job.folder)
    assert status.text.splitlines()[:3] == [
        f"{job.folder}: not started",
        "Shards: 0 of 4",
        "Rows: 0 of 40 (0 %), 0 with errors",
    ]
    before = commands.run("pyml", "batch", "verify", job.folder)
    assert before.code == 1
    assert before.error == f"Error: {job.folder}: the job is not complete: 4 of 4 shards are not finished"
    done = commands.run("pyml", "batch", "run", job.folder, *TWO)
    assert done.code == 0, done.stderr
    assert done.stdout == b""
    assert done.stderr.splitlines()[-1] == "The job is complete: 40 rows, 0 with errors"
    verified = commands.run("pyml", "batch", "verify", job.folder, "--json")
    report = json.loads(verified.text)
    assert (verified.code, report["ok"], report["rows"], report["duplicates"]) == (0, True, 40, 0)
    assert report["digest"] == totals(job)["digest"]
    assert commands.run("pyml", "batch", "status", job.folder).text.startswith(f"{job.folder}: complete\n")
    again = commands.run("pyml", "batch", "run", job.folder, "-q")
    assert (again.code, again.stderr) == (0, "")


def test_the_digest_is_the_same_however_it_is_run(commands: Any, model: Path, tmp_path: Path) -> None:
    digests = set()
    ways: list[tuple[int, list[tuple[str, ...]]]] = [
        (10, [("--workers", "1", "--threads", "2")]),
        (1, [("--workers", "4", "--threads", "1")]),
        (7, [(*ONE, "--index", str(index), "--of", "3") for index in range(3)]),
    ]
    for number, (rows, runs) in enumerate(ways):
        folder = tmp_path / str(number)
        folder.mkdir()
        job = planned(folder, model, rows_per_shard=rows)
        for arguments in runs:
            done = commands.run("pyml", "batch", "run", job.folder, *arguments, "-q")
            assert (done.code, done.stderr) == (0, "")
        digests.add(totals(job)["digest"])
    assert len(digests) == 1


def test_the_index_of_a_scheduler(commands: Any, model: Path, tmp_path: Path) -> None:
    job = planned(tmp_path, model)
    done = commands.run("pyml", "batch", "run", job.folder, *ONE, "--of", "4", env={"JOB_COMPLETION_INDEX": "2"})
    assert done.code == 0
    assert done.stderr.startswith("1 of 1 shards are finished, 10 rows")
    assert [result.shard for result in job.results()] == [2]


def test_the_examples_of_schedulers(model: Path, tmp_path: Path) -> None:
    """The script of Slurm runs as it is; the pod of Kubernetes has options that exist."""
    job = planned(tmp_path, model, rows=66, rows_per_shard=1)
    environment = {
        **os.environ, "JOB": job.folder, "SLURM_ARRAY_TASK_ID": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    subprocess.run(["sh", EXAMPLES / "slurm.sbatch"], env=environment, capture_output=True, check=True)
    assert [result.shard for result in job.results()] == [1, 65]
    line = re.search(r"command: \[(.*)\]", (EXAMPLES / "kubernetes.yaml").read_text())
    assert line is not None
    words = line[1].replace('"', "").split(", ")
    assert words[:3] == ["pyml", "batch", "run"]
    known = {name for param in command.params for name in param.opts}
    assert {word for word in words if word.startswith("--")} <= known


def test_ctrl_c(commands: Any, lengthy: Job) -> None:
    with commands.start("pyml", "batch", "run", lengthy.folder, *TWO, "-q") as process:
        wait_for(lambda: begun(lengthy))
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
        assert time.monotonic() - began < 3
    assert (process.returncode, stderr) == (130, b"Error: interrupted\n")
    assert not list(Path(lengthy.folder, "workers").iterdir())
    assert all("end" in path.read_text() for path in Path(lengthy.folder, "shards").glob("*.attempts"))


def test_ctrl_c_of_a_terminal_goes_to_all_processes(commands: Any, lengthy: Job) -> None:
    with commands.start("pyml", "batch", "run", lengthy.folder, *TWO, "-q", start_new_session=True) as process:
        wait_for(lambda: begun(lengthy))
        os.killpg(process.pid, signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (130, b"Error: interrupted\n")


def test_a_run_goes_on_after_ctrl_c(commands: Any, model: Path, tmp_path: Path) -> None:
    job = planned(tmp_path, model, rows=250, rows_per_shard=100)
    with commands.start("pyml", "batch", "run", job.folder, *ONE, "-q") as process:
        wait_for(lambda: any(path.stat().st_size > 1000 for path in Path(job.folder, "shards").glob("*.part")))
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert commands.run("pyml", "batch", "run", job.folder, *TWO, "-q").code == 0
    folder = tmp_path / "other"
    folder.mkdir()
    other = planned(folder, model, rows=250)
    assert commands.run("pyml", "batch", "run", other.folder, *TWO, "-q").code == 0
    assert totals(job)["digest"] == totals(other)["digest"]


@pytest.mark.parametrize(("arguments", "code"), [((), 0), (("--index", "0", "--of", "2"), 143)])
def test_sigterm(arguments: tuple[str, ...], code: int, commands: Any, lengthy: Job) -> None:
    """Texts of a hundred thousand tokens do not end in the time that they have."""
    with commands.start("pyml", "batch", "run", lengthy.folder, *ONE, "--drain", "0.5", *arguments) as process:
        wait_for(lambda: begun(lengthy))
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == code
    assert b"0 of " in stderr.splitlines()[-1]


def test_a_second_signal(commands: Any, lengthy: Job) -> None:
    with commands.start("pyml", "batch", "run", lengthy.folder, *ONE, "-q") as process:
        wait_for(lambda: begun(lengthy))
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=10)
    assert process.returncode == 143


def test_kills_of_workers(commands: Any, model: Path, tmp_path: Path) -> None:
    job = planned(tmp_path, model, rows=400, rows_per_shard=40)
    with commands.start("pyml", "batch", "run", job.folder, *TWO) as process:
        kills = 0
        while process.poll() is None and kills < 6:
            time.sleep(0.15)
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            for child in children[:1]:
                os.kill(int(child), signal.SIGKILL)
                kills += 1
        _, stderr = process.communicate(timeout=100)
    assert process.returncode == 0, stderr
    report = job.verify()
    assert (report.ok, report.rows, report.quarantined) == (True, 400, 0)
    assert not list(Path(job.folder, "shards").glob("*.part"))


def test_a_full_disk(commands: Any, model: Path, tmp_path: Path) -> None:
    job = planned(tmp_path, model, rows=300, rows_per_shard=300)
    done = commands.run("pyml", "batch", "run", job.folder, *ONE, "-q", prepare=fill_disk)
    assert done.code == 1
    assert done.error.endswith(".part: cannot be written: File too large")
    assert commands.run("pyml", "batch", "run", job.folder, *ONE, "-q").code == 0
    assert job.verify().ok


def test_a_folder_that_cannot_be_written(commands: Any, model: Path, tmp_path: Path) -> None:
    job = planned(tmp_path, model)
    Path(job.folder).chmod(0o555)
    done = commands.run("pyml", "batch", "run", job.folder, *ONE, "-q", prepare=drop_privileges)
    assert done.code == 1
    assert done.error.startswith(f"Error: {job.folder}")
    assert done.error.endswith("cannot be written: Permission denied")


def test_another_level_is_refused(commands: Any, model: Path, tmp_path: Path) -> None:
    job = planned(tmp_path, model)
    if job.manifest.cpu_level == "scalar":
        pytest.skip("there is no lower level")
    done = commands.run("pyml", "batch", "run", job.folder, env={"PYML_CPU_LEVEL": "scalar"})
    assert done.code == 1
    assert "scalar" in done.error
    assert not Path(job.folder, "workers").exists()


def test_another_model_is_refused(commands: Any, model: Path, endless: Path, tmp_path: Path) -> None:
    job = planned(tmp_path, model)
    done = commands.run("pyml", "batch", "run", job.folder, "--model", endless)
    assert done.code == 1
    assert "model" in done.error


def test_a_damaged_result_is_found(commands: Any, model: Path, tmp_path: Path) -> None:
    job = planned(tmp_path, model)
    commands.run("pyml", "batch", "run", job.folder, *ONE, "-q")
    first, second = sorted(Path(job.folder, "shards").glob("*.jsonl"))[:2]
    second.write_text(first.read_text())
    done = commands.run("pyml", "batch", "verify", job.folder)
    assert done.code == 1
    assert "Rows: 40, 0 with errors, 10 duplicates" in done.text
    assert f"{second}: expected " in done.text
    first.unlink()
    assert "there is no such file" in commands.run("pyml", "batch", "verify", job.folder).text


def test_workers_share_the_weights(commands: Any, tmp_path: Path) -> None:
    """Some 110 MB of f32; what each has for itself is mostly Python's."""
    base = tiny_models.MODELS["llama"]
    config = {
        **base.config, "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 8,
        "num_key_value_heads": 8, "head_dim": 64, "eos_token_id": None,
    }  # fmt: skip
    model = tiny_files.write_hf(replace(base, config=config), tmp_path / "model")
    job = planned(tmp_path, model, rows=2000, load_options=LoadOptions(dtype="f32"))
    with commands.start("pyml", "batch", "run", job.folder, *TWO, "-q") as process:
        wait_for(lambda: len(list(Path(job.folder, "shards").glob("*.done"))) >= 2)
        workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        own = [kilobytes(worker, "Private_Dirty") for worker in workers]
        weights = kilobytes(str(process.pid), "Rss")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert weights > 110_000
    assert len(own) == 2
    assert max(own) < 80_000  # a copy would be more


def kilobytes(process: str, kind: str) -> int:
    """Memory of a process."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{kind}:"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--index", "4", "--of", "4"), "--index must be below the number of processes 4, got 4"),
        (("--index", "x", "--of", "4"), "invalid value 'x' for '--index': expected a whole number or auto"),
        (("--index", "1"), "--index needs --of, the number of processes"),
        (("--index", "auto"), "--index must be given: neither SLURM_ARRAY_TASK_ID nor JOB_COMPLETION_INDEX is set"),
        (("--workers", "0"), "--workers must be > 0, got 0"),
        (("--pin", "numa"), "--pin must be auto, cores or none, got 'numa'"),
        (("--drain", "0"), "--drain must be > 0.0, got 0"),
    ],
)
def test_usage_errors(arguments: tuple[str, ...], message: str, commands: Any, model: Path, tmp_path: Path) -> None:
    job = planned(tmp_path, model, rows=1)
    done = commands.run("pyml", "batch", "run", job.folder, *arguments)
    assert (done.code, done.error) == (2, f"Error: {message}")


def test_no_job(commands: Any, tmp_path: Path) -> None:
    for name in ("run", "status", "verify"):
        done = commands.run("pyml", "batch", name, tmp_path / "nothing")
        assert done.code == 1
        assert "nothing" in done.error
