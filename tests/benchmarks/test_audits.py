"""The reports of docs/audits are those that pyml writes of their measurements."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyml_nlp.audit.analyse import analyse
from pyml_nlp.audit.compare import read
from pyml_nlp.audit.markdown import markdown

REPORTS = sorted((Path(__file__).parents[2] / "docs" / "audits" / "models").glob("*.json"))


@pytest.mark.parametrize("report", REPORTS, ids=lambda path: path.stem)
def test_reports_are_in_the_present_form(report: Path) -> None:
    """Otherwise: ``python benchmarks/audits.py write``."""
    measurements = read(report)
    assert report.with_suffix(".md").read_text(encoding="utf-8") == markdown(measurements, analyse(measurements))


def test_there_are_reports() -> None:
    assert len(REPORTS) == 4
