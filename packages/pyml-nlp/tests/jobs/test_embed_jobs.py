"""Jobs of the task embed: the vectors of the model, the same over workers, shards and formats of output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobs.job_makers import write_rows

import pyml_nlp
from pyml_nlp import jobs
from pyml_nlp.errors import ArgumentError
from pyml_nlp.jobs.tasks.embed import Vectors
from pyml_nlp.jobs.tasks.prompts import Prompts
from pyml_nlp.options.load import LoadOptions
from tests.helpers.embedding_folder import write_folder

TEXTS = ["cat", "a b cats.", "a " * 50, "café 中", "b", "cats cats", "a.b.", "CAT"] * 4


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "bert")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    values = [{"id": f"r{number}", "text": text, "n": number} for number, text in enumerate(TEXTS)]
    return write_rows(tmp_path / "in.jsonl", [*values, {"id": "empty", "text": " "}, {"id": "none"}])


def plan(source: Path, folder: Path, model: Path, **options: Any) -> jobs.Job:
    return jobs.plan(source, folder, model=model, **{"task": "embed", "prompt_column": "text", **options})


def test_vectors_of_rows(tmp_path: Path, model: Path, source: Path) -> None:
    job = plan(source, tmp_path / "job", model, load_options=LoadOptions(dtype="f32"))
    list(job.run("here", threads=1))
    found = list(job.rows())
    with pyml_nlp.load_embedder(model, dtype="f32", threads=1) as embedder:
        expected = embedder.embed(TEXTS)
        counts = list(map(len, embedder.token_ids(TEXTS)))
    assert np.array_equal(np.array([row["embedding"] for row in found[: len(TEXTS)]], np.float32), expected)
    assert [row["prompt_tokens"] for row in found[: len(TEXTS)]] == counts
    assert [row["error"] for row in found[len(TEXTS) :]] == [
        "expected a prompt, got an empty text", "expected a text in column 'text', got None"
    ]  # fmt: skip
    totals = job.finish()
    assert totals is not None
    assert (totals["rows"], totals["errors"], totals["tokens"]) == (len(TEXTS) + 2, 2, 0)
    assert not job.verify().problems


@pytest.mark.process
@pytest.mark.parametrize("output", ["jsonl", "parquet"])
def test_workers_make_the_same(output: str, tmp_path: Path, model: Path, source: Path) -> None:
    if output == "parquet":
        pytest.importorskip("pyarrow")
    one = plan(source, tmp_path / "one", model, rows_per_shard=100, output=output)
    list(one.run("here", threads=2, together=3))
    many = plan(source, tmp_path / "many", model, rows_per_shard=5, output=output)
    assert len(list(many.run("local", workers=2, threads=1))) == 7
    expected, found = one.finish(), many.finish()
    assert expected is not None
    assert found is not None
    assert found["digest"] == expected["digest"]
    assert list(one.rows()) == list(many.rows())
    assert not many.verify().problems
    if output == "parquet":
        import pyarrow.parquet as parquet

        table = parquet.read_table(sorted((tmp_path / "one" / "shards").glob("*.parquet"))[0])
        assert str(table.schema.field("embedding").type) == "list<element: float>"
        assert "embedding" not in table.column_names[:-1]
        plain = plan(source, tmp_path / "plain", model)
        list(plain.run("here", threads=1))
        assert [row.get("embedding") for row in plain.rows()] == [row.get("embedding") for row in one.rows()]


def test_rows_of_a_batch_file(tmp_path: Path, model: Path) -> None:
    rows = [{"prompt": "cat"}, {"messages": [{"role": "user", "content": "a"}]}, {"prompt": "a", "max_tokens": 3}]
    job = plan(write_rows(tmp_path / "b.jsonl", rows), tmp_path / "job", model, prompt_column=None)
    list(job.run("here", threads=1))
    found = list(job.rows())
    assert len(found[0]["embedding"]) == 96
    assert found[1]["error"] == "expected a text to embed, got messages"
    assert found[2]["error"] == "max_tokens: is an option of texts, which a vector has not"


def test_what_a_plan_refuses(tmp_path: Path, model: Path, source: Path, job_model: Path) -> None:
    cases: dict[str, dict[str, Any]] = {
        "task embed needs an embedding model, got a model that writes texts": {"model": job_model},
        "task generate needs a model that writes texts, got an embedding model": {"task": "generate"},
        "max_tokens is an option of texts, which a vector has not": {"max_tokens": 3},
        "row_options is of texts that are generated": {"row_options": ["seed"]},
        "context_length is for models that write texts": {"load_options": LoadOptions(context_length=5)},
    }
    for message, options in cases.items():
        with pytest.raises(ArgumentError, match=message):
            plan(source, tmp_path / "job", **{"model": model, **options})


def test_the_pooling_is_part_of_the_model(tmp_path: Path, model: Path, source: Path) -> None:
    job = plan(source, tmp_path / "job", model)
    config = model / "1_Pooling" / "config.json"
    config.write_text(json.dumps({"pooling_mode": "cls"}).ljust(config.stat().st_size))
    with pytest.raises(jobs.IdentityError, match="another model"):
        job.check_identity()


def test_a_cancelled_shard_goes_on(tmp_path: Path, model: Path, source: Path) -> None:
    job = plan(source, tmp_path / "job", model, rows_per_shard=100)
    with job.load(threads=1) as embedder:
        runner = jobs.ShardRunner(job, embedder, together=4)
        with pytest.raises(jobs.Stopped):
            runner.run(0, lambda: True)
        runner.cancel()
        with pytest.raises(jobs.Stopped):
            runner.run(0)
        work = Vectors(embedder, Prompts(job.manifest.task))  # type: ignore[arg-type]
        work.cancel()
        assert list(work.results(iter([]), 4, lambda index, result: None)) == []
        assert jobs.ShardRunner(job, embedder).run(0).rows == len(TEXTS) + 2
