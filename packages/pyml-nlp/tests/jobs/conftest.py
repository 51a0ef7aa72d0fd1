"""A tiny random model with a chat template, and jobs of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyml_nlp
from pyml_nlp.language_model import LanguageModel
from tests.helpers import tiny_files, tiny_models

TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="session")
def job_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the model."""
    folder = tiny_files.write_hf(tiny_models.MODELS["llama"], tmp_path_factory.mktemp("jobs") / "llama")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": TEMPLATE}))
    return folder


@pytest.fixture(scope="session")
def job_lm(job_model: Path) -> Iterator[LanguageModel]:
    """The model, loaded."""
    with pyml_nlp.load(job_model, threads=2) as lm:
        yield lm
