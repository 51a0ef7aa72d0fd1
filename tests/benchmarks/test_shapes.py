"""Files of real sizes with random weights: what is written, and what pyml reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import pyml_nlp
import shapes
from models import Files
from peers import random_shape
from shapes import SHAPES, Shape

SMALL = Shape(3, 256, 4, 2, 64, 512, 600, 1e4, mixed=True)
MIXTURE = Shape(2, 256, 4, 2, 64, 256, 600, 1e4, mixed=False, experts=16, chosen=4)


@pytest.mark.parametrize("shape", [SMALL, MIXTURE], ids=["dense", "mixture"])
def test_pyml_reads_the_file(shape: Shape, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    random_shape.write(shape, shape.layers, path)
    with pyml_nlp.load(path, threads=1) as lm:
        assert (lm.config.n_layers, lm.config.hidden_size, lm.vocab_size) == (shape.layers, 256, 600)
        assert getattr(lm.config, "n_experts", 0) == shape.experts
        assert lm.ids("it") == [letters_index("i"), letters_index("t")]
        logits = lm.logits(range(300, 340))
    assert np.isfinite(logits).all()
    assert 0.7 < logits.std() < 1.4  # weights keep the size of what they multiply
    assert len({int(row.argmax()) for row in logits}) > 20


def letters_index(letter: str) -> int:
    return random_shape.letters().index(letter)


def test_stored_tensors(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    random_shape.write(SMALL, 3, path)
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    wanted = list(random_shape.tensors(SMALL, 3))
    assert list(stored) == [tensor.name for tensor in wanted]
    for tensor in wanted:
        found = stored[tensor.name]
        assert (found.tensor_type, found.n_bytes) == (tensor.type, tensor.nbytes)
        assert tuple(reversed(found.shape.tolist())) == tensor.shape
    assert stored["output.weight"].tensor_type == gguf.GGMLQuantizationType.Q6_K
    for name in ("blk.0.ffn_up.weight", "blk.2.ffn_down.weight"):
        weights = gguf.dequantize(stored[name].data, stored[name].tensor_type)
        columns = weights.shape[-1]
        assert abs(weights.mean()) < 0.1 * columns**-0.5
        assert 0.8 < weights.std() * columns**0.5 < 1.2


def test_fewer_layers(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    random_shape.write(MIXTURE, 1, path)
    with pyml_nlp.load(path, threads=1) as lm:
        assert lm.config.n_layers == 1


def test_a_tensor_is_made_in_pieces() -> None:
    tensor = random_shape.Tensor("x", (4096, 2048), gguf.GGMLQuantizationType.Q4_K)
    sizes = [piece.size for piece in random_shape.pieces(tensor, {}, np.random.default_rng(0))]
    assert sum(sizes) == tensor.nbytes
    assert max(sizes) <= 144 * random_shape.POOL


@pytest.mark.parametrize(
    ("name", "parameters", "nbytes"), [("llama3.1-8b-q4_k_m", 8.03e9, 4.9e9), ("qwen3-30b-a3b-q4_k", 30.5e9, 17.2e9)]
)
def test_real_sizes(name: str, parameters: float, nbytes: float) -> None:
    tensors = list(random_shape.tensors(SHAPES[name], SHAPES[name].layers))
    assert sum(int(np.prod(tensor.shape)) for tensor in tensors) == pytest.approx(parameters, rel=0.01)
    assert sum(tensor.nbytes for tensor in tensors) == pytest.approx(nbytes, rel=0.02)
    sized = shapes.Sized(name, SHAPES[name].layers)
    assert shapes.parameters(sized) == pytest.approx(parameters, rel=0.01)


def test_names() -> None:
    assert shapes.parse("qwen3-30b-a3b-q4_k") == shapes.Sized("qwen3-30b-a3b-q4_k", 48)
    assert shapes.parse("qwen3-30b-a3b-q4_k@12") == shapes.Sized("qwen3-30b-a3b-q4_k", 12)
    assert shapes.parse("gemma3-270m") is None
    for wrong in ("@", "@0", "@49", "@x", "@-1"):
        with pytest.raises(ValueError, match="expected 1 to 48 layers"):
            shapes.parse("qwen3-30b-a3b-q4_k" + wrong)


def row(layers: int, seconds: dict[str, float | None]) -> dict[str, Any]:
    engines = {name: {"median": one and 1 / one} for name, one in seconds.items()}
    return {"model": f"qwen3-30b-a3b-q4_k@{layers}", "test": "tg64", "engines": engines}


def test_scaling() -> None:
    """A head of 3 s and layers of 0.5 s; an engine without figures is left out, and one whose times are noise."""
    results = [
        row(4, {"pyml": 5.0, "llama.cpp": 3.0, "ik_llama.cpp": 2.0}),
        row(12, {"pyml": 9.0, "llama.cpp": None, "ik_llama.cpp": 1.9}),
        row(8, {"pyml": 99.0}),
        {"model": "gemma3-270m", "test": "tg64", "engines": {}},
    ]
    (found,) = shapes.scaled(results)
    assert (found["model"], found["layers"], found["of"]) == ("qwen3-30b-a3b-q4_k", [4, 12], 48)
    assert found["tokens_per_s"] == {"pyml": pytest.approx(1 / 27)}
    assert shapes.scaled(results[:1]) == []


def test_generated_files_are_deleted(tmp_path: Path) -> None:
    kept, deleted = (Files(name, tmp_path, tmp_path) for name in ("gemma3-270m", "qwen3-30b-a3b-q4_k@2"))
    for files in (kept, deleted):
        files.folder.mkdir()
        (files.folder / f"{files.name}.gguf").write_bytes(b"")
        assert files.gguf().exists()
        files.delete_generated()
    assert kept.folder.exists()
    assert not deleted.folder.exists()
