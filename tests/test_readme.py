"""Every Python example of the READMEs and of the pages for users runs as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    "README.md",
    *(f"packages/pyml-{name}/README.md" for name in ("core", "nn", "nlp")),
    "docs/tracing.md",
    "docs/chat.md",
    "docs/generation.md",
    "docs/sampling.md",
    "docs/structured-output.md",
]


def examples(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


EXAMPLES = [(page, number) for page in PAGES for number in range(len(examples(page)))]


@pytest.mark.parametrize(("page", "number"), EXAMPLES)
def test_example_runs(page: str, number: int, gemma_gguf: Path, smollm2_gguf: Path, tmp_path: Path) -> None:
    example = examples(page)[number]
    if page == "docs/structured-output.md" and find_spec("llguidance") is None:
        pytest.skip("llguidance is not installed")
    if "matplotlib" in example and find_spec("matplotlib") is None:
        pytest.skip("matplotlib is not installed")
    (tmp_path / "gemma-3-270m.gguf").symlink_to(gemma_gguf)
    (tmp_path / smollm2_gguf.name).symlink_to(smollm2_gguf)
    environment = {**os.environ, "PYML_MODEL": str(gemma_gguf)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout or page == "packages/pyml-nn/README.md"
    for name in re.findall(r"[\w-]+\.(?:json|png)", example):
        assert (tmp_path / name).stat().st_size > 1000


def test_every_page_has_an_example() -> None:
    assert Counter(page for page, _ in EXAMPLES) == {page: 3 if page.startswith("docs") else 1 for page in PAGES}
