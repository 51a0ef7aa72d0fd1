"""A tiny random model behind the application, in this process."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

import pyml_nlp
from pyml_nlp import LanguageModel
from pyml_nlp.server import app

TEMPLATE = (
    "{{ tools }}{#- <tool_call> -#}{% for m in messages %}[{{ m.role }}]{{ m.content + ';' }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture(scope="session")
def served_folder(tiny_dirs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a tiny Llama with a chat template that describes tools."""
    folder = tmp_path_factory.mktemp("served") / "tiny-llama"
    shutil.copytree(tiny_dirs["llama"], folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@pytest.fixture(scope="session")
def lm(served_folder: Path) -> Iterator[LanguageModel]:
    """The tiny model."""
    with pyml_nlp.load(served_folder, threads=1) as loaded:
        yield loaded


@pytest.fixture
def client(lm: LanguageModel) -> Iterator[TestClient]:
    """A client of the application; faults of the server are raised in the test."""
    with TestClient(app(lm), base_url="http://127.0.0.1:8000") as opened:
        yield opened
