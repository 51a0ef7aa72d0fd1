"""Weights that are not finite, or that a block type cannot hold: refused by name when loaded, and NumPy is silent."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import pyml_nlp
from pyml_core.errors import PymlError
from pyml_nlp.formats.gguf import GGUFFile
from tests.helpers import tiny_files, tiny_models

SCALES = {"q8_0": 0, "q4_0": 0, "q4_1": 2, "q5_0": 0, "q5_1": 2, "iq4_nl": 0}
SCALES |= {"q2_K": 82, "q3_K": 108, "q4_K": 2, "q5_K": 0, "q6_K": 208, "iq4_xs": 0, "mxfp4": -1, "f16": 0}
"""Where a block has a scale or minimum. In mxfp4, whose scale is one byte, byte -1 is of the block before."""

NOT_FINITE = "expected finite numbers, found infinite ones or NaN"


def refused(path: Path, dtype: str) -> str:
    """The error of loading a model, which must be one line, and all that is said."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(PymlError) as caught:
            pyml_nlp.load(path, dtype=dtype, threads=1)
    text = str(caught.value)
    assert text.startswith(str(path))
    assert "\n" not in text
    return text


@pytest.mark.parametrize("stored", SCALES)
@pytest.mark.parametrize("dtype", ["auto", "f32", "bf16", "q8_0", "q4_0"])
def test_a_scale_of_a_block(tmp_path: Path, stored: str, dtype: str) -> None:
    path = tiny_files.write_gguf(tiny_models.QUANTIZED, tmp_path / "m.gguf", stored)
    with GGUFFile(path) as file:
        name, info = next(
            (name, info) for name, info in file.tensors.items() if info.dtype == stored and "blk.1" in name
        )
        size = info.nbytes // 5
    content = bytearray(path.read_bytes())
    block = {"f16": 2, "q8_0": 34, "q4_0": 18, "iq4_nl": 18, "q4_1": 20, "q5_0": 22, "q5_1": 24,
             "q2_K": 84, "q3_K": 110, "q4_K": 144, "q5_K": 176, "q6_K": 210,
             "iq4_xs": 136, "mxfp4": 17}[stored]  # fmt: skip
    start = info.offset + size // block * block + SCALES[stored]
    for bits in (0x7C00, 0xFC00, 0x7E00) if stored != "mxfp4" else (0xFD00, 0xFF00):
        content[start : start + 2] = bits.to_bytes(2, "little")
        path.write_bytes(content)
        text = refused(path, dtype)
        assert name in text
        assert text.endswith(NOT_FINITE)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3", "mixtral"])
@pytest.mark.parametrize("dtype", ["auto", "f32", "q4_0"])
def test_a_weight_of_a_checkpoint(tmp_path: Path, tiny_dirs: dict[str, Path], name: str, dtype: str) -> None:
    """Every weight of the last layer, and those outside of layers."""
    folder = Path(shutil.copytree(tiny_dirs[name], tmp_path / name))
    weights = load_file(folder / "model.safetensors")
    last = f".{json.loads((folder / 'config.json').read_text()).get('num_hidden_layers', 2) - 1}."
    chosen = [key for key in weights if last in key or not any(part.isdigit() for part in key.split("."))]
    assert len(chosen) > 8
    for number, key in enumerate(chosen[:: 1 if dtype == "auto" else 4]):
        changed = weights[key].copy()
        changed.reshape(-1)[changed.size // 3] = (np.inf, -np.inf, np.nan)[number % 3]
        save_file({**weights, key: changed}, folder / "model.safetensors", {"format": "pt"})
        text = refused(folder, dtype)
        assert key in text
        assert text.endswith(NOT_FINITE)


@pytest.mark.parametrize(
    ("name", "key"), [("llama", "model.layers.1.mlp.up_proj.weight"), ("gpt2", "h.1.mlp.c_fc.weight")]
)
def test_numbers_that_are_too_large(tmp_path: Path, tiny_dirs: dict[str, Path], name: str, key: str) -> None:
    folder = Path(shutil.copytree(tiny_dirs[name], tmp_path / name))
    weights: dict[str, Any] = load_file(folder / "model.safetensors")
    (found,) = [other for other in weights if other.endswith(key)]
    changed = weights[found].copy()
    changed[5, 7] = 3.4e38
    save_file({**weights, found: changed}, folder / "model.safetensors", {"format": "pt"})
    for dtype, message in (
        ("auto", "scales up to 65504"),
        ("q4_0", "scales up to 65504"),
        ("bf16", "that bf16 can hold"),
    ):
        text = refused(folder, dtype)
        assert found in text
        assert message in text
