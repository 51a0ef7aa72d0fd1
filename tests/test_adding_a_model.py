"""The names on the page about adding a model exist where it says."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/adding-a-model.md").read_text()
HOMES = {
    "hf": "pyml_nn.config.hf",
    "gguf": "pyml_nn.config.gguf",
    "parts": "pyml_nn.parts",
    "decoder": "pyml_nn.decoder",
    "falcon": "pyml_nn.models.falcon",
    "phi3": "pyml_nn.models.phi3",
    "Model": "pyml_nn.models.phi3",
}


NAMES = set(re.findall(rf"(?<![./\w])(?:{'|'.join(HOMES)})(?:\.(?!py\b)[A-Za-z]\w*)+", PAGE))


@pytest.mark.parametrize("name", sorted(NAMES))
def test_names_on_the_page_exist(name: str) -> None:
    first, *rest = name.split(".")
    found = import_module(HOMES[first])
    for part in [first, *rest] if first == "Model" else rest:
        assert hasattr(found, part), name
        found = getattr(found, part)
