"""Every task has the same results from forked workers as from one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from jobs.job_makers import finished, rows, write_rows

from pyml_nlp import jobs
from pyml_nlp.language_model import LanguageModel

pytestmark = pytest.mark.process


@pytest.mark.parametrize(
    "options",
    [
        {"task": "generate"},
        {"task": "generate", "regex": "[a-f]{1,4}"},
        {"task": "chat", "prompt": "Say {prompt}", "system": "Be brief."},
        {"task": "score"},
    ],
    ids=["generate", "structured", "chat", "score"],
)
def test_workers_make_the_same(options: dict[str, Any], tmp_path: Path, job_model: Path, job_lm: LanguageModel) -> None:
    if "regex" in options:
        pytest.importorskip("llguidance")
    values = rows(20)
    if options["task"] != "generate":
        values = [{"id": row["id"], "prompt": row["prompt"]} for row in values]
    source = write_rows(tmp_path / "in.jsonl", values)
    plan = {"model": job_model, **options}
    if options["task"] != "score":
        plan |= {"max_tokens": 4, "seed": 3}
    one = jobs.plan(source, tmp_path / "one", rows_per_shard=20, **plan)
    expected = finished(one, job_lm)
    job = jobs.plan(source, tmp_path / "job", rows_per_shard=3, **plan)
    assert len(list(job.run("local", workers=2, threads=1, together=4))) == 7
    found = job.finish()
    assert found is not None
    assert found["digest"] == expected["digest"]
    assert (found["rows"], found["errors"]) == (20, 0)
    assert list(job.rows()) == list(one.rows())
