"""Folders as trainers, editors and uploads leave them: changes that must not affect a model, and its warnings."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import pyml_nlp
from pyml_core.errors import PymlError
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
    """Text files with a byte order mark from an editor are read as before."""
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


def test_stray_files_beside_the_weights(
    tiny_dirs: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A model that was saved again next to an older one, or in another precision: the right weights, and a warning."""
    expected = logits(tiny_dirs["llama"])
    folder = shutil.copytree(tiny_dirs["llama"], tmp_path / "model")
    with SafetensorsFile(tiny_dirs["gpt2"] / "model.safetensors") as other:
        weight_map = dict.fromkeys(other.tensors, "model-00001-of-00001.safetensors")
    shutil.copy(tiny_dirs["gpt2"] / "model.safetensors", folder / "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    np.testing.assert_array_equal(logits(folder), expected)
    (folder / "model.safetensors").rename(folder / "model.fp32.safetensors")
    with pytest.raises(PymlError, match=r"h\.0\.\S+: unknown tensor"):
        logits(folder)
    assert [record.message for record in caplog.records] == [
        f"{folder}: the weights are 'model.safetensors'; left out: 'model.safetensors.index.json', "
        "'model-00001-of-00001.safetensors'",
        f"{folder}: the weights are 'model-00001-of-00001.safetensors'; left out: 'model.fp32.safetensors'",
    ]


def test_warnings_on_the_command_line(tiny_dirs: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_dirs["llama"], tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "favourite_color": "green"}))
    command: list[str | Path] = [
        Path(sys.executable).with_name("pyml-infer"),
        folder,
        "--prompt",
        "a",
        "--max-tokens",
        "1",
    ]
    loud = subprocess.run([*command], capture_output=True, text=True, check=True)
    warnings = [line for line in loud.stderr.splitlines() if line.startswith("Warning: ")]
    assert warnings == [f"Warning: {folder}/config.json: favourite_color (found 'green'): unknown key, ignored"]
    assert subprocess.run([*command, "-q"], capture_output=True, text=True, check=True).stderr == ""


def test_a_folder_without_a_tokenizer(tiny_dirs: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_dirs["llama"], tmp_path / "model")
    for name in ("tokenizer.json", "merges.txt", "vocab.json"):
        (folder / name).unlink()
    read: list[int] = []
    with pytest.raises(PymlError, match=rf"^{folder}: no tokenizer: expected tokenizer\.json, .*; got none of them$"):
        pyml_nlp.load(folder, progress=lambda done, total: read.append(done))
    (folder / "tekken.json").write_text("{}")
    with pytest.raises(PymlError, match=r"; got tekken\.json, which pyml does not read$"):
        pyml_nlp.load(folder, progress=lambda done, total: read.append(done))
    assert read == []


@pytest.mark.parametrize("name", ["llama", "mistral_window", "qwen3", "gemma2", "falcon", "mixtral", "gemma3"])
def test_dynamic_scaling_within_the_original_context(tiny_dirs: dict[str, Path], tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(tiny_dirs[name], tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["rope_scaling"] = {"type": "dynamic", "factor": 4.0, "original_max_position_embeddings": 20}
    (folder / "config.json").write_text(json.dumps(config))
    np.testing.assert_array_equal(logits(folder), logits(tiny_dirs[name]))
    with pyml_nlp.load(folder, dtype="f32", threads=1) as lm:
        assert lm.logits(list(range(20))).shape[0] == 20
        with pytest.raises(PymlError, match="20"):
            lm.logits(list(range(21)))
    with pytest.raises(PymlError, match="context length: expected at most 20, which the model was made for, got 21"):
        pyml_nlp.load(folder, context_length=21)


def test_unknown_keys_are_errors_unless_allowed(
    tiny_dirs: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_dirs["llama"], folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "attention_chunk_size": 8}))
    with pytest.raises(PymlError, match="attention_chunk_size: unknown key"):
        pyml_nlp.load(folder)
    with pyml_nlp.load(folder, dtype="f32", threads=1, allow_unknown_keys=True) as lm:
        assert np.array_equal(lm.logits(IDS), logits(tiny_dirs["llama"]))
    assert any("ignored, because unknown keys are allowed" in record.message for record in caplog.records)
    command: list[str | Path] = [
        Path(sys.executable).with_name("pyml-infer"),
        folder,
        "--prompt",
        "a",
        "--max-tokens",
        "1",
    ]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    allowed = subprocess.run([*command, "--allow-unknown-keys"], capture_output=True, text=True, check=True)
    assert "attention_chunk_size" in allowed.stderr
