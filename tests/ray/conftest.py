"""Tests with Ray, which is in its own environment: ``hatch run ray:test``. Elsewhere they are not collected."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.helpers import tiny_files, tiny_models
from tests.ray.alone import isolate
from tests.server.conftest import TEMPLATE

INSTALLED = find_spec("ray") is not None
collect_ignore_glob = [] if INSTALLED else ["test_*.py"]

if INSTALLED:  # before Ray is imported, and before this process has a thread
    isolate()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.ray)


@pytest.fixture(scope="session", autouse=True)
def place() -> Iterator[Path]:
    """The folder of Ray's files and of the user's home, which Ray writes a token to."""
    folder = Path(tempfile.mkdtemp(prefix="pr-"))  # sockets have short names
    before = {name: os.environ.get(name) for name in ("RAY_TMPDIR", "HOME")}
    os.environ |= {"RAY_TMPDIR": str(folder), "HOME": str(folder / "home")}
    (folder / "home").mkdir()
    try:
        yield folder
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a tiny Llama with a chat template."""
    folder = tmp_path_factory.mktemp("served") / "tiny-llama"
    shutil.copytree(tiny_files.write_hf(tiny_models.MODELS["llama"], folder.parent / "source"), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 1 << 15}))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder
