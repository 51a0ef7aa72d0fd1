"""The audits of ``docs/audits``: measure four models with ``pyml audit``, then write the studies from their reports.

    python benchmarks/audits.py measure gemma3-270m      # one model: docs/audits/models/gemma3-270m.{md,json}
    python benchmarks/audits.py write                    # reports, studies, picture and index, from what was measured
    python benchmarks/audits.py                          # both, two minutes on an idle machine

Run it with the interpreter that has pyml; the models' files are made as for ``compare.py``. The text of the studies
is in ``studies``, their numbers come from ``figures.py``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from string import Template

import figures
from models import Files
from picture import lines_svg
from pyml_nlp.audit.compare import read
from pyml_nlp.audit.markdown import markdown
from pyml_nlp.audit.report import to_json

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs" / "audits"
CACHE = Path.home() / ".cache" / "pyml-bench"


def measure(model: figures.Audited, cache: Path) -> None:
    """Run ``pyml audit`` on one model, and keep its Markdown and JSON."""
    file = Files(model.file, cache / "models", cache).gguf()
    lengths = ",".join(map(str, model.lengths))
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pyml_nlp.cli.main", "audit", str(file), "--prompt-lengths", lengths]
        subprocess.run([*command, "--output", folder], check=True)
        (DOCS / "models").mkdir(parents=True, exist_ok=True)
        for kind in ("md", "json"):
            text = Path(folder, f"report.{kind}").read_text(encoding="utf-8")
            (DOCS / "models" / f"{model.name}.{kind}").write_text(text, encoding="utf-8")


def write() -> None:
    """Write the reports anew from their measurements, the studies, the index and the picture."""
    audits = [figures.Audit(model, read(DOCS / "models" / f"{model.name}.json")) for model in figures.MODELS]
    for audit in audits:  # as pyml writes reports today
        for kind, text in (("md", markdown(audit.m, audit.a)), ("json", to_json(audit.m, audit.a))):
            (DOCS / "models" / f"{audit.model.name}.{kind}").write_text(text, encoding="utf-8")
    for name, values in figures.values(audits).items():
        text = Template((HERE / "studies" / f"{name}.template").read_text(encoding="utf-8")).substitute(values)
        (DOCS / f"{name}.md").write_text(text, encoding="utf-8")
    curves = {audit.title: audit.token_ms for audit in audits}
    levels = {audit.title: audit.a.warm.decode_ms for audit in audits}
    (DOCS / "prefill-and-decode.svg").write_text(lines_svg(curves, levels), encoding="utf-8")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("measure", "write"), help="default: both")
    parser.add_argument("models", nargs="*", help=f"default: {' '.join(model.name for model in figures.MODELS)}")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of model files and environments")
    options = parser.parse_args()
    known = {model.name: model for model in figures.MODELS}
    for name in options.models:
        if name not in known:
            parser.error(f"expected one of {', '.join(known)}, got {name}")
    if options.what != "write":
        for name in options.models or known:
            measure(known[name], options.cache)
    if options.what != "measure":
        write()


if __name__ == "__main__":
    main()
