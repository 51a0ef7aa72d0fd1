"""Decoders as embedding models: their hidden states, the last token, and folders that are not such models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pyml_nlp
from pyml_core.errors import ShapeError
from pyml_nlp.embedding.loading import is_embedding_model
from pyml_nn import ConfigError
from pyml_nn.causal_encoder import causal_encoder
from pyml_nn.models import ARCHITECTURES
from tests.helpers.tiny_models import MODELS, VOCAB

GOLDENS = Path(__file__).parent / "goldens" / "tiny"
NAMES = [name for name in ("qwen3", "qwen2", "llama", "gemma3") if name in MODELS]
END = 7


def encoder(name: str, dtype: str = "f32", threads: int = 1, max_tokens: int = 512) -> Any:
    model = MODELS[name]
    module = ARCHITECTURES[model.config["model_type"]]
    weights = {key: value for key, value in model.weights().items() if key != "lm_head.weight"}
    return causal_encoder(module)(module.Config.from_hf(model.config), weights, dtype, threads, max_tokens)


@pytest.mark.parametrize("name", NAMES)
def test_the_head_makes_transformers_logits_of_them(name: str) -> None:
    model = MODELS[name]
    weights = model.weights()
    head = weights.get("lm_head.weight", weights.get("model.embed_tokens.weight"))
    assert head is not None
    (hidden,) = encoder(name).encode([model.prompt])
    with np.load(GOLDENS / f"{name}.npz") as golden:
        found = hidden[golden["positions"]] @ np.asarray(head, np.float32).T
        assert abs(found - golden["logits"]).max() < 1e-4


@pytest.mark.parametrize("dtype", ["f32", "auto"])
def test_chunks_and_other_texts_change_no_bit(dtype: str) -> None:
    rng = np.random.default_rng(2)
    texts = [rng.integers(0, VOCAB, n).tolist() for n in (1, 90, 64, 7, 33, 120)]
    expected = [encoder("qwen3", dtype).encode([text])[0] for text in texts]
    for threads, max_tokens in ((1, 512), (2, 40), (2, 7)):
        found = encoder("qwen3", dtype, threads, max_tokens).encode(texts)
        assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
    with pytest.raises(ShapeError):
        encoder("qwen3").encode([[]])


@pytest.fixture
def folder(tiny_dirs: dict[str, Path], tmp_path: Path) -> Path:
    """A tiny Qwen3-Embedding: its last token is one that the tokenizer puts after a text."""
    path = tmp_path / "qwen3-embedding"
    shutil.copytree(tiny_dirs["qwen3"], path)
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    modules = [{"path": at, "type": f"sentence_transformers.models.{kind}"} for at, kind in kinds]
    (path / "modules.json").write_text(json.dumps(modules))
    (path / "1_Pooling").mkdir()
    (path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_lasttoken": True}))
    prompts = {"prompts": {"query": "Find: "}, "default_prompt_name": None}
    (path / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    tokenizer = json.loads((path / "tokenizer.json").read_text())
    name = next(text for text, number in tokenizer["model"]["vocab"].items() if number == END)
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing", "pair": [],
        "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": name, "type_id": 0}}],
        "special_tokens": {name: {"id": name, "ids": [END], "tokens": [name]}},
    }  # fmt: skip
    (path / "tokenizer.json").write_text(json.dumps(tokenizer))
    return path


def test_the_vector_is_that_of_the_last_token(folder: Path) -> None:
    texts = ["a", "the river runs", "", "a b " * 30]
    assert is_embedding_model(folder)
    with pyml_nlp.load_embedder(folder, dtype="f32", threads=2) as embedder:
        ids = embedder.token_ids(texts)
        assert all(one[-1] == END for one in ids)
        found = embedder.embed(texts)
        states = [embedder.encoder.encode([one])[0][-1].astype(np.float64) for one in ids]
        assert np.allclose(found, [one / np.linalg.norm(one) for one in states], atol=1e-6)
        assert np.array_equal(embedder.embed(["a"], prompt_name="query"), embedder.embed(["Find: a"]))
        assert np.array_equal(embedder.embed(texts[::-1]), found[::-1])


def test_without_modules_it_writes_texts(folder: Path) -> None:
    (folder / "modules.json").unlink()
    assert not is_embedding_model(folder)
    with pytest.raises(ConfigError, match=r"which writes texts: pyml_nlp\.load loads it"):
        pyml_nlp.load_embedder(folder)


def test_architectures_of_another_base() -> None:
    with pytest.raises(ConfigError, match="gpt2 is not supported as an embedding model"):
        causal_encoder(ARCHITECTURES["gpt2"])
