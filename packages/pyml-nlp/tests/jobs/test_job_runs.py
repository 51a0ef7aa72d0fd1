"""Jobs from rows to results: the same texts as by generation of one row, whatever the shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jobs.job_makers import finished, rows, write_rows

from pyml_core.errors import PymlError
from pyml_nlp import jobs
from pyml_nlp.jobs import digests
from pyml_nlp.jobs import rows as reading
from pyml_nlp.jobs.tasks.texts import row_seed
from pyml_nlp.language_model import LanguageModel

COUNT = 40


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "in.jsonl", rows(COUNT))


def alone(lm: LanguageModel, row: dict[str, Any], seed: int, **defaults: Any) -> str:
    """The text of a row as generation of this row alone makes it."""
    options = {**defaults, **{key: value for key, value in row.items() if key not in ("id", "prompt")}}
    if options.get("temperature") != 0:
        options.setdefault("seed", row_seed(seed, row["id"]))
    return lm.generate_text(row["prompt"], **options)


@pytest.mark.parametrize("per_shard", [1, 7, 500])
def test_texts_are_those_of_single_rows(
    per_shard: int, source: Path, job_model: Path, job_lm: LanguageModel, tmp_path: Path
) -> None:
    job = jobs.plan(source, tmp_path / "job", model=job_model, max_tokens=9, seed=5, rows_per_shard=per_shard)
    assert job.n_shards == -(-COUNT // per_shard)
    totals = finished(job, job_lm)
    found = list(job.rows())
    assert [row["id"] for row in found] == [row["id"] for row in rows(COUNT)]
    assert [row["text"] for row in found] == [alone(job_lm, row, 5, max_tokens=9) for row in rows(COUNT)]
    assert (totals["rows"], totals["errors"]) == (COUNT, 0)
    assert totals["tokens"] == sum(row["tokens"] for row in found)
    lines = (line for done in job.results() for line in (tmp_path / "job" / done.file).read_bytes().splitlines())
    assert totals["digest"] == digests.of_lines(lines)
    assert json.loads((tmp_path / "job/_SUCCESS").read_text()) == totals
    assert {path.suffix for path in (tmp_path / "job/shards").iterdir()} == {".jsonl", ".done"}


def test_shards_and_places_change_no_digest(
    source: Path, job_model: Path, job_lm: LanguageModel, tmp_path: Path
) -> None:
    found = set()
    for number, (options, together) in enumerate(
        [
            ({"rows_per_shard": 1}, 1),
            ({"rows_per_shard": 7}, 3),
            ({"tokens_per_shard": 50}, None),
            ({"group": True}, 32),
        ]
    ):
        job = jobs.plan(source, tmp_path / str(number), model=job_model, max_tokens=6, **options)  # type: ignore[arg-type]
        found.add(finished(job, job_lm, together)["digest"])
    assert len(found) == 1
    other = jobs.plan(source, tmp_path / "other", model=job_model, max_tokens=6, seed=1)
    assert finished(other, job_lm)["digest"] not in found


def test_a_second_run_does_nothing(source: Path, job_model: Path, job_lm: LanguageModel, tmp_path: Path) -> None:
    job = jobs.plan(source, tmp_path / "job", model=job_model, max_tokens=4, rows_per_shard=20)
    first = finished(job, job_lm)
    assert list(jobs.open(tmp_path / "job").run("here")) == []  # no model is loaded
    assert job.pending() == []
    assert job.finish() == first


def test_wrong_rows_are_results(job_model: Path, job_lm: LanguageModel, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    long = b'{"prompt": "' + b"a b " * 5000 + b'"}'
    path.write_bytes(
        b'\xef\xbb\xbf{"id": 7, "prompt": "one"}\n\n   \r\n{broken\n[1]\n{"prompt": "\xff"}\n'
        b'{"id": 2.5, "prompt": "x"}\n{"prompt": ""}\n{"id": "p", "promt": "x"}\n'
        + long
        + b'\n{"id": "t", "prompt": "two",'
        b' "temperature": -1}\n{"id": "last", "prompt": "end"}'
    )
    job = jobs.plan(path, tmp_path / "job", model=job_model, max_tokens=2, rows_per_shard=4)
    assert job.manifest.rows == 10
    totals = finished(job, job_lm)
    found = list(job.rows())
    assert [row["id"] for row in found] == [
        7, "in.jsonl:4", "in.jsonl:5", "in.jsonl:6", "in.jsonl:7", "in.jsonl:8", "p", "in.jsonl:10", "t", "last",
    ]  # fmt: skip
    assert ["text" in row for row in found] == [True, *[False] * 8, True]
    expected = [
        "expected JSON", "expected a JSON object, got [1]", "expected UTF-8, got byte 0xff at offset 12",
        "id must be a text or a whole number, got 2.5", "expected a prompt",
        "unknown key 'promt', did you mean prompt?", "Sequence length exceeded",
        "temperature must be a finite number >= 0",
    ]  # fmt: skip
    for row, start in zip(found[1:9], expected, strict=True):
        assert row["error"].startswith(start), row
    assert (totals["rows"], totals["errors"], totals["quarantined"]) == (10, 8, 0)


def test_half_of_a_surrogate_pair(job_model: Path, job_lm: LanguageModel, tmp_path: Path) -> None:
    values = [
        {"id": "\ud800", "prompt": "x"},
        {"id": 2, "prompt": "\udfff"},
        {"id": 3, "prompt": "x", "stop": "\ud800"},
    ]
    job = jobs.plan(write_rows(tmp_path / "in.jsonl", values), tmp_path / "job", model=job_model, max_tokens=1)
    finished(job, job_lm)
    found = list(job.rows())
    assert [row["id"] for row in found] == ["in.jsonl:1", 2, 3]
    assert all("surrogate" in row["error"] or "id must be" in row["error"] for row in found)


def test_lines_that_are_too_long(
    job_model: Path, job_lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MAX_BYTES", 60)
    path = write_rows(tmp_path / "in.jsonl", [{"prompt": "a"}, {"prompt": "b" * 100}, {"prompt": "c"}])
    job = jobs.plan(path, tmp_path / "job", model=job_model, max_tokens=1)
    finished(job, job_lm)
    kinds = [row.get("error", "text") for row in job.rows()]
    assert kinds == ["text", "expected a line of at most 60 bytes, got a longer one", "text"]


def test_chats_and_templates(job_model: Path, job_lm: LanguageModel, tmp_path: Path) -> None:
    values = [{"name": "a", "q": "who?", "n": 3, "deep": {"x": "y"}}, {"name": "b", "q": None, "n": 4, "deep": {}}]
    path = write_rows(tmp_path / "in.jsonl", values)
    greedy: dict[str, Any] = {"model": job_model, "max_tokens": 5, "temperature": 0}
    job = jobs.plan(path, tmp_path / "a", prompt="{{Q}} {q} {n} {deep.x}", id_column="name", **greedy)
    finished(job, job_lm)
    first, second = job.rows()
    assert first["text"] == job_lm.generate_text("{Q} who? 3 y", max_tokens=5, temperature=0)
    assert second == {"id": "b", "error": "expected a value in column 'q', got none"}
    chat = jobs.plan(path, tmp_path / "b", task="chat", prompt_column="name", system="Be brief.", **greedy)
    finished(chat, job_lm)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a"}]
    assert next(chat.rows())["text"] == job_lm.chat_text(messages, max_tokens=5, temperature=0)
    lists = write_rows(tmp_path / "lists.jsonl", [{"turns": messages[1:], "max_tokens": 2}, {"turns": "no"}])
    chat = jobs.plan(
        lists, tmp_path / "c", messages_column="turns", system="Be brief.", row_options=["max_tokens"], **greedy
    )
    finished(chat, job_lm)
    answer, wrong = chat.rows()
    assert answer["text"] == job_lm.chat_text(messages, max_tokens=2, temperature=0)
    assert wrong["error"] == "expected messages in column 'turns', got 'no'"


def test_scores(job_model: Path, job_lm: LanguageModel, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "in.jsonl", [{"id": 1, "prompt": "the river runs"}, {"id": 2}])
    job = jobs.plan(path, tmp_path / "job", model=job_model, task="score", top=2)
    finished(job, job_lm)
    scored, wrong = job.rows()
    expected = job_lm.score("the river runs", 2)
    assert scored["logprob"] == round(sum(one.logprob for one in expected if one.logprob is not None), 6)
    assert [entry["token"] for entry in scored["logprobs"]] == [one.token for one in expected]
    assert [len(entry["top"]) for entry in scored["logprobs"]] == [0, *[2] * (len(expected) - 1)]
    assert wrong == {"id": 2, "error": "expected a prompt"}


def test_structured_output(job_model: Path, job_lm: LanguageModel, tmp_path: Path) -> None:
    pytest.importorskip("llguidance")
    path = write_rows(
        tmp_path / "in.jsonl", [{"prompt": "a"}, {"prompt": "b", "regex": "(no|yes)"}, {"prompt": "c", "regex": "("}]
    )
    job = jobs.plan(path, tmp_path / "job", model=job_model, max_tokens=8, regex="[0-9]{3}", logprobs=1)
    finished(job, job_lm)
    one, two, three = jobs.open(tmp_path / "job").rows()
    assert one["text"].isdecimal()
    assert two["text"] in ("no", "yes")
    assert len(two["logprobs"]) == two["tokens"]
    assert three["error"].startswith("regex")


def test_refused_plans(source: Path, job_model: Path, tmp_path: Path) -> None:
    def refuse(match: str, **options: Any) -> None:
        with pytest.raises(PymlError, match=match):
            jobs.plan(options.pop("inputs", source), tmp_path / "no", **{"model": job_model, **options})
        assert not (tmp_path / "no").exists()

    refuse("task embed needs an embedding model, got a model that writes texts", task="embed")
    refuse(r"no-such\.jsonl: there is no such file", inputs=tmp_path / "no-such.jsonl")
    refuse("expected a file that ends in .jsonl", inputs=job_model / "config.json")
    refuse("there are no rows", inputs=write_rows(tmp_path / "empty.jsonl", []))
    refuse("no row of the sample has a column 'txt': they have 'id', 'prompt'", prompt="{txt}")
    refuse("prompt must name a column in braces", prompt="text")
    refuse("prompt must have pairs of braces", prompt="{text")
    refuse("prompt cannot be given together with prompt_column", prompt="{prompt}", prompt_column="prompt")
    refuse("unknown option 'max_token'", max_token=3)
    refuse("max_tokens must be >= 0", max_tokens=-3)
    refuse("row_options must be options of generation, got 'id'", row_options=["id"], prompt_column="prompt")
    refuse("system needs the task chat", system="x")
    refuse("max_tokens is an option of texts", task="score", max_tokens=3)
    refuse("rows_per_shard must be > 0", rows_per_shard=0)
    refuse("cpu_level must be one of", cpu_level="sse")
    refuse("there is no such file", model=tmp_path / "no-model.gguf")


def test_a_folder_has_one_plan(source: Path, job_model: Path, tmp_path: Path) -> None:
    def plan(**options: Any) -> jobs.Job:
        return jobs.plan(source, tmp_path / "job", **{"model": job_model, "max_tokens": 9, **options})

    first = plan()
    assert plan().digest == first.digest
    for options, match in (
        ({"max_tokens": 10}, "options.max_tokens: 9, not 10"),
        ({"seed": 3}, "seed: 0, not 3"),
        ({"rows_per_shard": 2}, "with other shards"),
        ({"prompt_column": "prompt"}, "task.prompt_column: None, not 'prompt'"),
    ):
        with pytest.raises(jobs.JobError, match=match):
            plan(**options)
