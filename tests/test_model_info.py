"""``model_info``: the configuration in a model's files, without its weights."""

from __future__ import annotations

from pathlib import Path

import pytest

import pyml_nlp
from pyml_nlp import ModelInfo, model_info
from pyml_nlp.errors import ModelNotFoundError


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gemma3"])
def test_a_folder_and_a_file_are_described_as_they_load(
    architecture: str, tiny_dirs: dict[str, Path], tiny_ggufs: dict[str, Path]
) -> None:
    for path in (tiny_dirs[architecture], tiny_ggufs[architecture]):
        info = model_info(path)
        with pyml_nlp.load(path) as lm:
            expected = ModelInfo(
                lm.name, path, info.architecture, lm.context_length, lm.model.config.n_layers, lm.vocab_size
            )
            assert info == expected
        assert info.architecture.startswith(architecture)


def test_weights_are_not_read(tiny_dirs: dict[str, Path], tmp_path: Path) -> None:
    source = tiny_dirs["llama"]
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((source / name).read_bytes())
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-4:] = b"\0\0\xc0\x7f"  # NaN: loading refuses it
    (folder / "model.safetensors").write_bytes(data)
    assert model_info(folder).n_layers == model_info(source).n_layers


def test_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="the folder is empty"):
        model_info(tmp_path)
