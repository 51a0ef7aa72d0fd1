"""What a job wants of a process, and what it refuses; manifests that are damaged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from jobs.job_makers import rows, write_rows

import pyml_nlp.loading
from pyml_core import cpu
from pyml_nlp import jobs
from pyml_nlp.jobs import folder, identity


@pytest.fixture
def job(job_model: Path, tmp_path: Path) -> jobs.Job:
    """A job whose model nobody else has."""
    model = Path(shutil.copytree(job_model, tmp_path / "model"))
    return jobs.plan(write_rows(tmp_path / "in.jsonl", rows(4)), tmp_path / "job", model=model, max_tokens=2)


@pytest.fixture(autouse=True)
def _no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any, **__: Any) -> Any:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(folder, "load", load)


def refuse(job: jobs.Job, match: str) -> None:
    with pytest.raises(jobs.IdentityError, match=match) as error:
        job.run("here")
    assert "\n" not in str(error.value)
    with pytest.raises(jobs.IdentityError):
        job.load()


def test_another_level(job: jobs.Job, monkeypatch: pytest.MonkeyPatch) -> None:
    level = job.manifest.cpu_level
    job.check_identity()
    other = "scalar" if level != "scalar" else "avx2"
    monkeypatch.setattr(cpu, "level", lambda: other)
    refuse(job, f"the job was planned for CPU level {level}, this is {other}: set PYML_CPU_LEVEL={level}")


def test_a_level_for_mixed_fleets(job_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = jobs.plan(
        write_rows(tmp_path / "in.jsonl", rows(2)), tmp_path / "job", model=job_model, cpu_level="avx512_vnni"
    )
    monkeypatch.setattr(cpu, "level", lambda: "scalar")
    monkeypatch.setattr(cpu, "levels", lambda: ["scalar", "avx2"])
    refuse(job, "this CPU has scalar, avx2; plan with --cpu-level avx2")


def test_another_build(job: jobs.Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "build", lambda: "9.9+0123")
    refuse(job, r"the job was planned with pyml .*\+.*, this is 9\.9\+0123")


def test_another_model(job: jobs.Job, tmp_path: Path) -> None:
    weights = tmp_path / "model/model.safetensors"
    data = bytearray(weights.read_bytes())
    weights.write_bytes(data + b"\0")
    refuse(job, r"model\.safetensors: another model: expected \d+ bytes, as the job was planned, got \d+")
    data[len(data) // 2 + 1] ^= 1
    weights.write_bytes(data)
    refuse(job, r"model\.safetensors: another model: its bytes are not those that the job was planned with")
    (tmp_path / "model/extra.json").write_text("{}")
    refuse(job, "expected the files .*, got .*extra.json")


def test_bytes_between_the_samples(tmp_path: Path) -> None:
    """Samples take milliseconds; the whole hash notices everything."""
    path = tmp_path / "model.gguf"
    data = bytearray(bytes(range(256)) * (24 << 12))
    path.write_bytes(data)
    before, whole = identity._stat(path), identity._digest(path)
    at = len(data) // identity.SAMPLES * 20 - 1000
    data[at] ^= 1
    path.write_bytes(data)
    assert identity._stat(path) == before
    assert identity._digest(path) != whole


def test_a_model_elsewhere(job: jobs.Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "load", pyml_nlp.loading.load)
    (tmp_path / "model").rename(tmp_path / "moved")
    with pytest.raises(pyml_nlp.ModelNotFoundError):
        job.check_identity()
    with jobs.open(tmp_path / "job", model=tmp_path / "moved").load(threads=1) as lm:
        assert isinstance(lm, pyml_nlp.LanguageModel)
        assert lm.context_length > 0


def test_manifests_that_are_no_jobs(job: jobs.Job, tmp_path: Path) -> None:
    path = tmp_path / "job/manifest.json"
    found = json.loads(path.read_text())

    def refused(match: str, text: str) -> None:
        path.write_text(text)
        with pytest.raises(jobs.ManifestError, match=match):
            jobs.open(tmp_path / "job")

    with pytest.raises(jobs.ManifestError, match=r"there is no job: expected manifest\.json"):
        jobs.open(tmp_path / "nothing")
    refused("damaged: expected JSON", path.read_text()[:-30])
    refused("expected the manifest of a job", "{}")
    refused("expected version 1, got 2", json.dumps(found | {"version": 2}))
    for key in ("inputs", "task", "options", "seed", "model", "shards", "output", "cpu_level"):
        refused("damaged", json.dumps({name: value for name, value in found.items() if name != key}))
        refused("damaged", json.dumps(found | {key: None}))
    refused("damaged", json.dumps(found | {"more": 1}))
    refused("damaged", json.dumps(found | {"shards": [[[[3, 0, 5, 1]], 1, 1]]}))
    refused("damaged", json.dumps(found | {"shards": [[[[0, "0", 5, 1]], 1, 1]]}))
    refused("damaged", json.dumps(found | {"shards": []}))
    for change in ({"prompt": 7}, {"row_options": [1]}, {"top": "a"}):
        refused("damaged", json.dumps(found | {"task": found["task"] | change}))
    path.write_text(json.dumps(found))
    assert jobs.open(tmp_path / "job").manifest == job.manifest


@pytest.mark.parametrize(
    "change",
    [
        {"options": {"max_tokens": "a"}},
        {"options": {"nothing": 1}},
        {"options": {"grammar": {"kind": "regex"}}},
        {"load": {"dtype": 7}},
        {"load": {"nothing": 1}},
    ],
)
def test_damaged_options_are_refused_before_a_load(change: dict[str, Any], job: jobs.Job, tmp_path: Path) -> None:
    path = tmp_path / "job/manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(jobs.ManifestError, match=r"manifest\.json: damaged: "):
        jobs.open(tmp_path / "job").check_identity()
