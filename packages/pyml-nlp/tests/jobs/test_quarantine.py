"""A row that ends its process: it is found, quarantined and named, and all other rows are made."""

from __future__ import annotations

import faulthandler
import json
import os
import signal
from pathlib import Path

import pytest
from jobs.job_makers import finished, rows, write_rows

from pyml_nlp import jobs
from pyml_nlp.cli.main import run
from pyml_nlp.jobs import member
from pyml_nlp.jobs.journal import Journal
from pyml_nlp.language_model import LanguageModel

pytestmark = pytest.mark.process
ROW = 7


@pytest.mark.parametrize(("number", "deaths"), [(signal.SIGSEGV, 2), (signal.SIGKILL, 5)])
def test_a_row_that_ends_its_process(
    number: int,
    deaths: int,
    tmp_path: Path,
    job_model: Path,
    job_lm: LanguageModel,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = write_rows(tmp_path / "in.jsonl", rows(30))
    plan = {"model": job_model, "rows_per_shard": 15, "max_tokens": 4}
    clean = jobs.plan(source, tmp_path / "clean", **plan)  # type: ignore[arg-type]
    finished(clean, job_lm)
    job = jobs.plan(source, tmp_path / "job", **plan)  # type: ignore[arg-type]
    take_up = Journal.row

    def row(self: Journal, index: int) -> None:
        take_up(self, index)
        if index == ROW and str(self._path).endswith("00000.attempts"):
            (tmp_path / "deaths").open("a").write("x")
            faulthandler.disable()
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Journal, "row", row)
    monkeypatch.setattr(member, "FIRST_DELAY", 0.01)
    told: list[str] = []
    results = list(job.run("local", workers=2, threads=1, tell=told.append))
    assert (tmp_path / "deaths").read_text() == "x" * deaths
    assert len(told) == deaths
    assert (sum(result.rows for result in results), sum(result.quarantined for result in results)) == (30, 1)
    assert job.verify().ok
    made, expected = list(job.rows()), list(clean.rows())
    assert [one for one, other in zip(made, expected, strict=True) if one != other] == [
        {"id": f"row-{ROW}", "error": f"quarantined: its process died {deaths} times"}
    ]
    assert run("pyml", ["batch", "run", job.folder, "-q"]) == 3
    assert capsys.readouterr().err == (f"Error: 1 row ended the process again and again, in quarantine: 'row-{ROW}'\n")
    report = json.loads((Path(job.folder) / "_SUCCESS").read_text())
    assert (report["quarantined"], report["errors"]) == (1, 1)
