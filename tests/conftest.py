"""Fixtures: real models (fetched or generated once, cached outside the repository) and tiny random ones."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.helpers import fetch, tiny_files, tiny_models


def _fetched(asset: fetch.Asset) -> Path:
    try:
        return fetch.fetch(asset)
    except fetch.FetchError as error:
        if os.environ.get("CI"):
            pytest.fail(f"{asset.path}: {error}")
        pytest.skip(f"{asset.path}: {error}")


@pytest.fixture(scope="session")
def gemma_gguf() -> Path:
    """Gemma 3 270M, Q4_K_M, as a GGUF file."""
    return _fetched(fetch.GEMMA)


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """SmolLM2 135M Instruct, Q4_1, as a GGUF file."""
    return _fetched(fetch.SMOLLM2)


@pytest.fixture(scope="session")
def gpt2_vocab_dir() -> Path:
    """Folder with GPT-2's vocab.json and merges.txt."""
    _fetched(fetch.GPT2_MERGES)
    return _fetched(fetch.GPT2_VOCAB).parent


@pytest.fixture(scope="session")
def gemma_hf_dir(gemma_gguf: Path) -> Path:
    """Gemma 3 270M as a Hugging Face folder: the GGUF's weights in f32, sharded."""
    from tests.helpers import make_hf_layout

    return make_hf_layout.gemma_folder()


@pytest.fixture(scope="session")
def smollm2_hf_dir(smollm2_gguf: Path) -> Path:
    """SmolLM2 as a Hugging Face folder: the GGUF's weights in f32, sharded."""
    from tests.helpers import make_hf_layout

    return make_hf_layout.smollm2_folder()


@pytest.fixture(scope="session")
def gpt2_dir(gpt2_vocab_dir: Path) -> Path:
    """GPT-2's 124M shape with random bf16 weights and the real vocabulary, as a Hugging Face folder."""
    from tests.helpers import gpt2_random

    return gpt2_random.gpt2_folder()


@pytest.fixture(scope="session")
def tiny_dirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of the tiny random models by name (see tiny_models.MODELS)."""
    root = tmp_path_factory.mktemp("tiny")
    return {name: tiny_files.write_hf(model, root / name) for name, model in tiny_models.MODELS.items()}


@pytest.fixture(scope="session")
def tiny_ggufs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """GGUF files of the tiny random models that have one, f32, by name."""
    root = tmp_path_factory.mktemp("tiny-gguf")
    models = (model for model in tiny_models.MODELS.values() if model.gguf)
    return {model.name: tiny_files.write_gguf(model, root / f"{model.name}.gguf") for model in models}
