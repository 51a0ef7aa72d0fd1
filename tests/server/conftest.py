"""A tiny random model behind the application, in this process."""

from __future__ import annotations

import json
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


THINKING = TEMPLATE + "{#- </think> -#}"


@pytest.fixture(scope="session")
def thinker(tiny_dirs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[LanguageModel]:
    """The tiny model with a longer context, and a template that has both tools and reasoning."""
    folder = tmp_path_factory.mktemp("thinker") / "tiny-thinker"
    shutil.copytree(tiny_dirs["llama"], folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 2048}))
    (folder / "chat_template.jinja").write_text(THINKING)
    with pyml_nlp.load(folder, threads=1) as loaded:
        yield loaded


@pytest.fixture
def thinking(thinker: LanguageModel) -> Iterator[TestClient]:
    """A client of an application of that model."""
    with TestClient(app(thinker), base_url="http://127.0.0.1:8000") as opened:
        yield opened
