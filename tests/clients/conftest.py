"""A server of a tiny random model for real clients, which are in their own environment: ``hatch run clients:test``.

Most of its answers are forced by a grammar, because the model itself writes nothing that makes sense.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import pyml_nlp
from pyml_nlp import LanguageModel
from pyml_nlp.server import app
from tests.helpers import tiny_files, tiny_models
from tests.server.conftest import THINKING
from tests.server.live import live

MODEL = "tiny-llama"
PACKAGES = (
    "anthropic",
    "instructor",
    "langchain_openai",
    "litellm",
    "llm",
    "lm_eval",
    "ollama",
    "openai",
    "pydantic_ai",
)

collect_ignore_glob = [] if all(find_spec(name) for name in PACKAGES) else ["test_*.py"]


@pytest.fixture(scope="session")
def lm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LanguageModel]:
    """A tiny Llama with tools and reasoning in its chat template."""
    folder = tmp_path_factory.mktemp("served") / MODEL
    shutil.copytree(tiny_files.write_hf(tiny_models.MODELS["llama"], folder.parent / "source"), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))
    (folder / "chat_template.jinja").write_text(THINKING)
    with pyml_nlp.load(folder, threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def url(lm: LanguageModel) -> Iterator[str]:
    """The address of its server, without a path."""
    with live(app(lm)) as server:
        yield f"http://127.0.0.1:{server.port}"


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the files of clients."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """No client finds another server, or settings of the user."""
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY", "OLLAMA_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")


@pytest.fixture(scope="session")
def unreasoned(lm: LanguageModel) -> dict[str, Any]:
    """The field that keeps the model from reasoning before it writes what has a schema."""
    begins = [token for token in range(lm.vocab_size) if lm.tokenizer.token_bytes(token).lstrip()[:1] in (b"<", b"")]
    return {"logit_bias": dict.fromkeys(map(str, begins), -100)}
