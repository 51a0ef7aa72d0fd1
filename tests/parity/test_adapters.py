"""Tiny random models with random LoRA adapters in f32 against PEFT, to 1e-4."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import pyml_nlp
from tests.helpers import tiny_files
from tests.helpers.tiny_adapters import ADAPTERS, TinyAdapter, write_gguf, write_peft

TOLERANCE = 1e-4
GOLDENS = Path(__file__).parents[1] / "goldens" / "tiny"


def golden(adapter: TinyAdapter) -> dict[str, npt.NDArray[Any]]:
    with np.load(GOLDENS / f"{adapter.name}.npz") as file:
        arrays = dict(file)
    assert arrays["ids"].tolist() == adapter.base.prompt
    return arrays


@pytest.mark.parametrize("name", ADAPTERS)
def test_peft_folders(name: str, tmp_path: Path) -> None:
    adapter = ADAPTERS[name]
    expected = golden(adapter)
    folder = tiny_files.write_hf(adapter.base, tmp_path / "model")
    peft = write_peft(adapter, tmp_path / "adapter")
    with pyml_nlp.load(folder, dtype="f32", threads=2, adapters=[peft]) as lm:
        got = lm.logits(adapter.base.prompt, expected["positions"].tolist(), adapter="adapter")
        base = lm.logits(adapter.base.prompt, expected["positions"].tolist())
    np.testing.assert_allclose(got, expected["logits"], atol=TOLERANCE, rtol=0)
    assert np.abs(base - expected["logits"]).max() > 100 * TOLERANCE


def test_gguf_files(tmp_path: Path) -> None:
    adapter = ADAPTERS["lora_llama"]
    expected = golden(adapter)
    path = tiny_files.write_gguf(adapter.base, tmp_path / "model.gguf")
    file = write_gguf(adapter, tmp_path / "adapter.gguf")
    with pyml_nlp.load(path, dtype="f32", threads=2, adapters={"a": file, "half": (file, 0.5)}) as lm:
        got = lm.logits(adapter.base.prompt, expected["positions"].tolist(), adapter="a")
        half = lm.logits(adapter.base.prompt, expected["positions"].tolist(), adapter="half")
    np.testing.assert_allclose(got, expected["logits"], atol=TOLERANCE, rtol=0)
    assert np.abs(half - got).max() > 100 * TOLERANCE
