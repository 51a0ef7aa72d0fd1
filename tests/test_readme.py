"""Every Python example of the READMEs and of the page on tracing runs as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = ["README.md", *(f"packages/pyml-{name}/README.md" for name in ("core", "nn", "nlp")), "docs/tracing.md"]


@pytest.mark.parametrize("page", PAGES)
def test_example_runs(page: str, gemma_gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "gemma-3-270m.gguf").symlink_to(gemma_gguf)
    environment = {**os.environ, "PYML_MODEL": str(gemma_gguf)}
    examples = re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    assert len(examples) == 1
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", examples[0]],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout or page == "packages/pyml-nn/README.md"
