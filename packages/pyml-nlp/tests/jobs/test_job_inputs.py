"""Inputs and outputs of all kinds: Parquet, compressed files, URLs, patterns and folders."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobs.job_makers import WORDS, finished, rows, write_rows

from pyml_core.errors import PymlError
from pyml_nlp import jobs
from pyml_nlp.jobs import digests, parquet, remote
from pyml_nlp.jobs.inputs import Scan, input_paths
from pyml_nlp.jobs.results import result_lines
from pyml_nlp.language_model import LanguageModel

arrow = pytest.importorskip("pyarrow")
fsspec = pytest.importorskip("fsspec")
COUNT = 30


def write_table(path: Path, values: list[dict[str, Any]], per_group: int) -> Path:
    from pyarrow import parquet as library  # after importorskip

    library.write_table(arrow.Table.from_pylist(values), path, row_group_size=per_group)
    return path


def plain(count: int = COUNT) -> list[dict[str, Any]]:
    """Rows without options."""
    return [{"id": row["id"], "prompt": row["prompt"]} for row in rows(count)]


@pytest.mark.parametrize("output", ["jsonl", "parquet"])
def test_parquet(output: str, job_model: Path, job_lm: LanguageModel, tmp_path: Path) -> None:
    table = write_table(tmp_path / "in.parquet", plain(), 11)
    lines = write_rows(tmp_path / "in.jsonl", plain())
    options: dict[str, Any] = {"model": job_model, "max_tokens": 4, "output": output, "logprobs": 1}
    one = jobs.plan(lines, tmp_path / "a", **options)
    two = jobs.plan(table, tmp_path / "b", prompt_column="prompt", rows_per_shard=8, **options)
    assert [shard.rows for shard in two.manifest.shards] == [8, 8, 8, 6]
    assert finished(one, job_lm)["digest"] == finished(two, job_lm)["digest"]
    assert list(one.rows()) == list(two.rows())
    for result in two.results():
        assert digests.of_lines(result_lines(two.store, result)) == result.digest
        assert result.file.endswith(f".{output}")
    if output == "parquet":
        from pyarrow import parquet as library  # after importorskip

        found = library.read_table(tmp_path / "b/shards/00000.parquet").to_pylist()
        assert [row["id"] for row in found] == [f"row-{number}" for number in range(8)]


def test_values_of_parquet(job_model: Path, job_lm: LanguageModel, tmp_path: Path) -> None:
    values: list[dict[str, Any]] = [
        {"n": 1, "ok": True, "list": ["a", "b"], "text": "x", "max_tokens": 2},
        {"n": 2, "ok": None, "list": None, "text": None, "max_tokens": None},
    ]
    table = write_table(tmp_path / "in.parquet", values, 10)
    job = jobs.plan(
        table, tmp_path / "job", model=job_model, prompt="{n} {ok} {list} {text}", id_column="n", temperature=0,
        max_tokens=3, row_options=["max_tokens"],
    )  # fmt: skip
    finished(job, job_lm)
    first, second = job.rows()
    text = job_lm.generate_text('1 true ["a", "b"] x', max_tokens=2, temperature=0)
    assert (first["id"], first["text"], first["tokens"]) == (1, text, 2)
    assert second == {"id": 2, "error": "expected a value in column 'ok', got none"}
    with pytest.raises(jobs.JobError, match=r"in\.parquet: there is no column 'txt'|no row of the sample has a column"):
        jobs.plan(table, tmp_path / "no", model=job_model, prompt_column="txt")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(jobs.JobError, match=r"bad\.parquet: cannot be read as Parquet"):
        jobs.plan(tmp_path / "bad.parquet", tmp_path / "no", model=job_model)


def test_packages_that_are_missing(job_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = write_table(tmp_path / "in.parquet", plain(2), 10)

    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(parquet, "import_module", missing)
    monkeypatch.setattr(remote, "import_module", missing)
    with pytest.raises(jobs.JobError, match=r"in\.parquet: Parquet needs the package pyarrow \(pip install"):
        jobs.plan(table, tmp_path / "job", model=job_model)
    with pytest.raises(jobs.JobError, match=r"s3://bucket/in\.jsonl: URLs need the package fsspec \(pip install"):
        jobs.plan("s3://bucket/in.jsonl", tmp_path / "job", model=job_model)


def test_patterns_folders_and_compressed_files(job_model: Path, job_lm: LanguageModel, tmp_path: Path) -> None:
    values = plain(12)
    write_rows(tmp_path / "in/a.jsonl", values[:5])
    (tmp_path / "in/b.jsonl.gz").write_bytes(
        gzip.compress("".join(json.dumps(row) + "\n" for row in values[5:9]).encode())
    )
    write_rows(tmp_path / "in/c.ndjson", values[9:])
    (tmp_path / "in/notes.txt").write_text("no rows")
    folder = jobs.plan(tmp_path / "in", tmp_path / "job1", model=job_model, max_tokens=3)
    several = jobs.plan(
        [tmp_path / "in/a.jsonl", f"{tmp_path}/in/*json*"], tmp_path / "job2", model=job_model, max_tokens=3
    )
    assert [one.name for one in several.manifest.inputs] == ["a.jsonl", "b.jsonl.gz", "c.ndjson"]
    cut = jobs.plan(tmp_path / "in", tmp_path / "cut", model=job_model, max_tokens=3, rows_per_shard=2)
    assert [shard.rows for shard in cut.manifest.shards] == [2, 2, 5, 2, 1]  # a compressed file is in one piece
    assert list(map(dict, cut.rows())) == []
    assert finished(cut, job_lm)["rows"] == 12
    assert [row["id"] for row in cut.rows()] == [row["id"] for row in values]
    assert folder.n_shards == 1
    assert len(folder.manifest.shards[0].pieces) == 3
    assert finished(folder, job_lm)["digest"] == finished(several, job_lm)["digest"]
    assert [row["id"] for row in folder.rows()] == [row["id"] for row in values]
    assert list(cut.rows()) == list(folder.rows())
    (tmp_path / "in/b.jsonl.gz").write_bytes((tmp_path / "in/b.jsonl.gz").read_bytes()[:-9])
    with pytest.raises(jobs.JobError, match=r"b\.jsonl\.gz: cannot be decompressed"):
        jobs.plan(tmp_path / "in", tmp_path / "job3", model=job_model)
    with pytest.raises(jobs.JobError, match=r"b\.jsonl\.gz: rows of compressed files cannot be grouped"):
        jobs.plan(tmp_path / "in", tmp_path / "job4", model=job_model, group=True)


def test_names_of_rows_tell_files_apart(tmp_path: Path, job_model: Path) -> None:
    for name in ("x", "y"):
        write_rows(tmp_path / name / "in.jsonl", [{"prompt": name}])
    job = jobs.plan([tmp_path / "x", tmp_path / "y"], tmp_path / "job", model=job_model)
    assert [one.name for one in job.manifest.inputs] == [str(tmp_path / name / "in.jsonl") for name in ("x", "y")]


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_urls(scheme: str, job_model: Path, job_lm: LanguageModel, tmp_path: Path) -> None:
    base = f"memory://{tmp_path.name}" if scheme == "memory" else f"file://{tmp_path}/far"
    system, root = fsspec.core.url_to_fs(base)
    system.makedirs(f"{root}/in", exist_ok=True)
    for number, part in enumerate((plain()[:20], plain()[20:])):
        system.pipe_file(f"{root}/in/{number}.jsonl", "".join(json.dumps(row) + "\n" for row in part).encode())
    near = jobs.plan(write_rows(tmp_path / "in.jsonl", plain()), tmp_path / "near", model=job_model, max_tokens=4)
    far = jobs.plan(f"{base}/in/*.jsonl", f"{base}/job", model=job_model, max_tokens=4, rows_per_shard=9)
    assert far.store.local is None
    assert finished(far, job_lm)["digest"] == finished(near, job_lm)["digest"]
    again = jobs.open(f"{base}/job")
    assert list(again.rows()) == list(near.rows())
    assert again.pending() == []
    assert not list(again.scratch.iterdir())
    names = {path.rpartition("/")[2] for path in system.ls(f"{root}/job/shards", detail=False)}
    assert {name.count(".") for name in names if name.endswith(".jsonl")} == {2}  # each has an attempt's name
    with pytest.raises(jobs.JobError, match="there is no such file"):
        jobs.plan(f"{base}/in/*.parquet", tmp_path / "no", model=job_model)
    with pytest.raises(jobs.JobError, match=r"nowhere://x/in\.jsonl: .*nowhere"):
        jobs.plan("nowhere://x/in.jsonl", tmp_path / "no", model=job_model)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_grouped_rows(kind: str, job_model: Path, job_lm: LanguageModel, tmp_path: Path) -> None:
    heads = [" ".join([word] * 70) for word in WORDS[:4]]
    values = [{"id": number, "prompt": f"{heads[number % 4]} {number}"} for number in range(24)]
    random.Random(3).shuffle(values)
    source = (
        write_table(tmp_path / "in.parquet", values, 7)
        if kind == "parquet"
        else write_rows(tmp_path / "in.jsonl", values)
    )
    options: dict[str, Any] = {"model": job_model, "max_tokens": 2, "rows_per_shard": 6}
    if kind == "parquet":
        options["prompt_column"] = "prompt"
    grouped = jobs.plan(source, tmp_path / "a", group=True, **options)
    loose = jobs.plan(source, tmp_path / "b", **options)
    assert finished(grouped, job_lm)["digest"] == finished(loose, job_lm)["digest"]
    assert grouped.manifest.grouped
    found = [row["id"] for row in grouped.rows()]
    assert sorted(found) == list(range(24))
    assert [len({one % 4 for one in found[start : start + 6]}) for start in range(0, 24, 6)] == [1] * 4


@pytest.mark.parametrize("ending", ["\n", "", "\n\n \t\n"])
def test_scans_find_the_lines_that_are_read(ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(5)
    lines = [chance.choice(["", " ", "\r", "{}", '{"a": 1}', "x" * chance.randrange(40)]) for _ in range(300)]
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join([*lines, "end"]) + ending, newline="")
    data = path.read_bytes()
    wanted, start = [], 0
    for number, line in enumerate(data.splitlines(keepends=True) if b"\r" not in data else data.split(b"\n"), 1):
        stop = min(start + len(line) + (b"\r" in data), len(data))
        if line.strip():
            wanted.append((start, stop, number))
        start = stop
    for block in (1, 7, 64, 1 << 20):
        monkeypatch.setattr("pyml_nlp.jobs.inputs._BLOCK", block)
        scan = Scan(str(path), None)
        found = [part for part in scan if len(part.starts)]
        joined = [np.concatenate(columns).tolist() for columns in zip(*(part[:3] for part in found), strict=True)]
        assert list(zip(*joined, strict=True)) == wanted
        assert scan.rows == len(wanted)


def test_paths(tmp_path: Path) -> None:
    with pytest.raises(PymlError, match="inputs must name a file"):
        input_paths([])
    with pytest.raises(PymlError, match="path: expected a path, got 3"):
        input_paths([3])  # type: ignore[list-item]
    star = write_rows(tmp_path / "a[1].jsonl", [{}])
    assert input_paths(star) == [str(star)]
