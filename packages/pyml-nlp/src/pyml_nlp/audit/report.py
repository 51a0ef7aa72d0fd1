"""An audit, from the model's files to the folder with its report."""

from __future__ import annotations

import contextlib
import datetime
import json
import re
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pyml_core.errors import PymlError
from pyml_nn.files import NewFile

from .. import model_info
from .analyse import Analysis, analyse
from .conclusions import conclusions
from .html import html
from .markdown import markdown
from .measure import Progress, measure
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
    progress: Progress,
) -> tuple[Path, list[str]]:
    """Measure a model and write the report. Returns the folder and the conclusions, one line each.

    Raises:
        PymlError: an error of the model, the plan or the folder; the folder is tested before measuring.
    """
    info = model_info(model)
    folder = output or _default_folder(info.path)
    made: list[Path] = []

    def plan(context: int, n_layers: int) -> Plan:
        chosen = make_plan(context, n_layers, lengths, repetitions, layers, quick)
        made.extend(_make(folder))
        return chosen

    try:
        m = measure(info, dtype, threads, plan, progress)
    except BaseException:  # an audit that failed or was interrupted leaves no folder
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise
    a = analyse(m)
    write(folder, m, a)
    lines = [summary(m, a), *(f"{found.title}. {found.text} {found.recommendation}" for found in conclusions(m, a))]
    return folder, lines


def write(folder: Path, m: Measurements, a: Analysis) -> None:
    """Write ``report.json``, ``report.md`` and ``report.html``: all three, or none (existing files stay).

    Raises:
        PymlError: they cannot be written (a full disk).
    """
    texts = {"report.json": to_json(m, a), "report.md": markdown(m, a), "report.html": html(m, a)}
    try:
        with contextlib.ExitStack() as stack:
            files = []
            for name, text in texts.items():
                files.append(stack.enter_context(contextlib.closing(NewFile(folder / name))))
                files[-1].file.write(text.encode())
                files[-1].sync()
            for file in files:
                file.place()
    except OSError as error:
        raise _unwritable(folder, error) from None


def to_json(m: Measurements, a: Analysis) -> str:
    """Return the measurements, which determine everything else, and the analysis for other programs, as JSON."""
    value = {"format": FORMAT, "version": VERSION, "measurements": asdict(m), "analysis": asdict(a)}
    return json.dumps(_rounded(value), separators=(",", ":"), ensure_ascii=False) + "\n"


def _rounded(value: object) -> object:
    """Round floats to six significant digits, more than the clocks provide."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value


def _default_folder(model: Path) -> Path:
    name = re.sub(r"[^\w.-]+", "-", model.name.removesuffix(".gguf")) or "model"
    return Path(f"audit-{name}-{datetime.date.today():%Y-%m-%d}")


def _make(folder: Path) -> list[Path]:
    """Create the folder and test it. Returns the folders that did not exist before, innermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise _unwritable(folder, error) from None
    return missing


def _unwritable(folder: Path, error: OSError) -> PymlError:
    return PymlError(f"{folder}: the report cannot be written: {error.strerror or error}")
