"""Jobs of a tiny random model, for tests."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pyml_nlp import jobs

WORDS = "the river runs past a small house and under an old bridge where children wait for boats".split()


def rows(count: int) -> list[dict[str, Any]]:
    """Rows with prompts of several lengths, some of them with options of their own."""
    found: list[dict[str, Any]] = []
    for number in range(count):
        row: dict[str, Any] = {
            "id": f"row-{number}",
            "prompt": " ".join(WORDS[number % 7 : number % 7 + 3 + number % 5]),
        }
        if number % 3 == 0:
            row["temperature"] = 0
        if number % 5 == 0:
            row["seed"] = number
        if number % 4 == 0:
            row["max_tokens"] = 3 + number % 6
        found.append(row)
    return found


def write_rows(path: Path, values: Iterable[Any]) -> Path:
    """A JSONL file of these values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return path


def finished(job: jobs.Job, lm: Any, together: int | None = None) -> dict[str, Any]:
    """Run a job in this process, and return its totals."""
    list(job.run("here", lm=lm, together=together))
    totals = job.finish()
    assert totals is not None
    return totals
