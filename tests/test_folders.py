"""Folders as trainers, editors and uploads leave them: what must not change a model, and what it says meanwhile."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import pyml_nlp
from pyml_nlp.formats.safetensors import SafetensorsFile

F32Array = npt.NDArray[np.float32]
IDS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]
TEXT = "the cat in the hat"


def logits(folder: Path) -> F32Array:
    """Logits of a folder's model in exact arithmetic."""
    with pyml_nlp.load(folder, dtype="f32", threads=1) as lm:
        return lm.logits(IDS)


def names(path: Path) -> list[str]:
    """Names of the tensors in a safetensors file."""
    with SafetensorsFile(path) as file:
        return list(file.tensors)


@pytest.mark.parametrize(("name", "left_out"), [("llama", None), ("llama", "tokenizer.json"), ("gemma3", None)])
def test_byte_order_marks(tiny_dirs: dict[str, Path], tmp_path: Path, name: str, left_out: str | None) -> None:
    """Text files that an editor has put one in front of say what they said before."""
    folder = shutil.copytree(tiny_dirs[name], tmp_path / "model")
    if left_out is not None:
        (folder / left_out).unlink()
    (folder / "generation_config.json").write_text('{"eos_token_id": [3, 4]}')
    (folder / "special_tokens_map.json").write_text("{}")
    (folder / "added_tokens.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    weight_map = dict.fromkeys(names(folder / "model-00001-of-00001.safetensors"), "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    plain = shutil.copytree(folder, tmp_path / "plain")
    texts = [path for path in folder.iterdir() if path.suffix in (".json", ".txt", ".jinja")]
    assert len(texts) >= 7
    for path in texts:
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    with pyml_nlp.load(plain, threads=1) as before, pyml_nlp.load(folder, threads=1) as after:
        assert after.tokenizer.encode(TEXT) == before.tokenizer.encode(TEXT)
        assert after.tokenizer.eos_ids == before.tokenizer.eos_ids
        assert after.tokenizer.chat_template == before.tokenizer.chat_template
        np.testing.assert_array_equal(after.logits(IDS), before.logits(IDS))
