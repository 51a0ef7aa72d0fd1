"""One audit from the model's files to the folder with its report."""

from __future__ import annotations

import datetime
import json
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from pyml_core.errors import PymlError

from .. import loading
from .analyse import Analysis, analyse
from .findings import findings
from .html import html
from .markdown import markdown
from .measure import measure
from .measurements import FORMAT, VERSION, Measurements
from .plan import Plan, make_plan
from .sections import summary


def audit(
    model: str | None,
    dtype: str,
    threads: int | None,
    lengths: Sequence[int] | None,
    repetitions: int | None,
    layers: Sequence[int],
    quick: bool,
    output: Path | None,
    tell: Callable[[str], None],
) -> tuple[Path, list[str]]:
    """Measure and write; returns the folder and the conclusions, a line each.

    Raises:
        PymlError: the model, the plan or the folder will not do; the folder is tried before anything is measured.
    """
    source = loading.find(model)
    folder = output or _default_folder(source.path)

    def plan(context: int, n_layers: int) -> Plan:
        made = make_plan(context, n_layers, lengths, repetitions, layers, quick)
        _make(folder)
        return made

    m = measure(source, dtype, threads, plan, tell)
    a = analyse(m)
    write(folder, m, a)
    lines = [summary(m, a), *(f"{found.title}. {found.text} {found.recommendation}" for found in findings(m, a))]
    return folder, lines


def write(folder: Path, m: Measurements, a: Analysis) -> None:
    """``report.json``, ``report.md`` and ``report.html``."""
    (folder / "report.json").write_text(to_json(m, a))
    (folder / "report.md").write_text(markdown(m, a), encoding="utf-8")
    (folder / "report.html").write_text(html(m, a), encoding="utf-8")


def to_json(m: Measurements, a: Analysis) -> str:
    """The measurements, from which everything else follows, and the analysis for other programs to read."""
    value = {"format": FORMAT, "version": VERSION, "measurements": asdict(m), "analysis": asdict(a)}
    return json.dumps(_rounded(value), separators=(",", ":"), ensure_ascii=False) + "\n"


def _rounded(value: object) -> object:
    """Floats with six significant digits: more than any clock here has."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value


def _default_folder(model: Path) -> Path:
    name = re.sub(r"[^\w.-]+", "-", model.name.removesuffix(".gguf")) or "model"
    return Path(f"audit-{name}-{datetime.date.today():%Y-%m-%d}")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise PymlError(f"{folder}: the report cannot be written: {error.strerror or error}") from None
