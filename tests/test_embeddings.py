"""Embedding models from end to end: a tiny folder, its settings and errors, the command, and real all-MiniLM-L6-v2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import save_file

import pyml_nlp
from pyml_nlp.cli.main import run
from tests.helpers import fetch, tiny_files
from tests.helpers.embedding_folder import WORDS, tokenizer_json, write, write_folder
from tests.helpers.tiny_models import ENCODERS, MODELS

F32Array = npt.NDArray[np.float32]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "bert")


def load(folder: Path) -> pyml_nlp.Embedder:
    return pyml_nlp.load_embedder(folder, dtype="f32", threads=2)


def ids(*words: str) -> list[int]:
    return [WORDS.index(word) for word in words]


def test_word_pieces(folder: Path) -> None:
    tokenizer = load(folder).tokenizer
    for text, words in {
        "Cats": ["cat", "##s"],
        "  CAFÉ\t中a.": ["cafe", "中", "a", "."],
        "dog abab": ["[UNK]", "a", "##b", "##a", "##b"],
        "[SEP]": ["[SEP]"],
        "a" * 101: ["[UNK]"],
        "": [],
    }.items():
        assert tokenizer.encode(text) == ids("[CLS]", *words, "[SEP]")
    assert tokenizer.decode(tokenizer.encode("Cats a.")) == "cats a."


def test_vectors_are_pooled_and_normalised(folder: Path) -> None:
    embedder, texts = load(folder), ["cat", "", "a b cats.", "cat"]
    found = embedder.embed(texts)
    assert found.shape == (4, 96)
    assert found.dtype == np.float32
    hidden = embedder.encoder.encode([embedder.tokenizer.encode(text) for text in texts])
    for row, states in zip(found, hidden, strict=True):
        mean = states.astype(np.float64).mean(axis=0)
        assert np.allclose(row, mean / np.linalg.norm(mean), atol=1e-6)
    assert np.array_equal(found[0], found[3])
    assert np.array_equal(embedder.embed(["cat"])[0], found[0])
    assert embedder.embed([]).shape == (0, 96)


@pytest.mark.parametrize("mode", ["cls", "mean", "max", "mean_sqrt_len_tokens", "lasttoken"])
def test_poolings_without_normalisation(mode: str, folder: Path) -> None:
    write(folder, "1_Pooling/config.json", {"pooling_mode": mode})
    write(folder, "modules.json", json.loads((folder / "modules.json").read_text())[:2])
    embedder = load(folder)
    (states,) = embedder.encoder.encode([embedder.tokenizer.encode("a cat")])
    expected = {"cls": states[0], "mean": states.mean(0), "max": states.max(0), "lasttoken": states[-1],
                "mean_sqrt_len_tokens": states.sum(0) / 2}[mode]  # fmt: skip
    assert np.allclose(embedder.embed(["a cat"])[0], expected, atol=1e-5)


DENSE: dict[str, Any] = {
    "in_features": 96,
    "out_features": 20,
    "bias": True,
    "activation_function": "torch.nn.modules.activation.Tanh",
}


def with_dense(folder: Path, number: int = 2, **changes: Any) -> tuple[F32Array, F32Array]:
    """Put a module Dense before the normalisation, and return its weight and bias."""
    config = {**DENSE, **changes}
    rng = np.random.default_rng(number)
    weight = rng.normal(size=(config["out_features"], config["in_features"])).astype(np.float32)
    bias = rng.normal(size=len(weight)).astype(np.float32)
    modules = json.loads((folder / "modules.json").read_text())
    modules.insert(number, {"path": f"{number}_Dense", "type": "sentence_transformers.models.Dense"})
    write(folder, "modules.json", modules)
    write(folder, f"{number}_Dense/config.json", config)
    tensors = {"linear.weight": weight, **({"linear.bias": bias} if config["bias"] else {})}
    save_file(tensors, folder / f"{number}_Dense" / "model.safetensors")
    return weight, bias


def test_dense_modules(folder: Path) -> None:
    plain = load(folder)
    hidden = plain.encoder.encode([plain.tokenizer.encode(text) for text in ("cat", "a b")])
    first, bias = with_dense(folder)
    identity = "torch.nn.modules.linear.Identity"
    second, _ = with_dense(folder, 3, in_features=20, out_features=33, bias=False, activation_function=identity)
    embedder = load(folder)
    assert embedder.dimensions == 33
    for vector, states in zip(embedder.embed(["cat", "a b"]), hidden, strict=True):
        expected = second @ np.tanh(first @ states.mean(axis=0) + bias)
        assert np.allclose(vector, expected / np.linalg.norm(expected), atol=1e-5)
    assert np.array_equal(embedder.embed(["cat"])[0], embedder.embed(["a b", "cat"])[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation_function": "torch.nn.modules.activation.GELU"}, "activation_function: expected Tanh or Identity"),
        ({"in_features": 95}, "Dense 0: expected 96 in_features, got 95"),
        ({"in_features": "96"}, "expected in_features and out_features from 1"),
        ({"out_features": 21}, r"linear\.weight: expected shape \(21, 96\), got \(20, 96\)"),
    ],
)
def test_invalid_dense_modules(changes: dict[str, Any], message: str, folder: Path) -> None:
    with_dense(folder, in_features=95 if changes.get("in_features") == 95 else 96)
    write(folder, "2_Dense/config.json", {**DENSE, **changes})
    with pytest.raises(pyml_nlp.PymlError, match=message):
        load(folder)


def test_long_texts_are_cut_and_prompts_come_before_texts(folder: Path) -> None:
    embedder = load(folder)
    assert embedder.max_tokens == 8
    found = embedder.embed(["a " * 50, "a " * 6, "a " * 5])
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[1], found[2])
    plain = embedder.embed(["a cat. b"])
    assert np.array_equal(embedder.embed(["b"], prompt_name="query"), plain)
    assert np.array_equal(embedder.embed(["b"], prompt="a cat. "), plain)
    with pytest.raises(pyml_nlp.ArgumentError, match="prompt_name must be one of query, got 'other'"):
        embedder.embed(["b"], prompt_name="other")
    for wrong in ("cat", 5, ["a", None]):
        with pytest.raises(pyml_nlp.ArgumentError, match="texts must be a list of texts, got"):
            embedder.embed(wrong)  # type: ignore[arg-type]


def test_a_closed_model(folder: Path) -> None:
    with load(folder) as embedder:
        pass
    with pytest.raises(pyml_nlp.PymlError, match="it is closed"):
        embedder.embed(["a"])


BAD = {
    "modules": ("modules.json", [{"type": "x.Transformer", "path": ""}], "expected the modules Transformer, Pooling"),
    "dense": (
        "modules.json", [{"type": "x.Transformer"}, {"type": "x.Pooling", "path": "1_Pooling"}, {"type": "x.Dense"}],
        "Dense: expected the name of a folder, got None",
    ),
    "CNN": ("modules.json", [{"type": "x.Transformer"}, {"type": "x.Pooling"}, {"type": "x.CNN"}], "got 'Trans"),
    "no list": ("modules.json", 5, "expected the modules"),
    "outside": ("modules.json", [{"type": "Transformer"}, {"type": "Pooling", "path": "../x"}], "the name of a folder"),
    "two poolings": (
        "1_Pooling/config.json", {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "pooling: expected"
    ),
    "pooling": ("1_Pooling/config.json", {"pooling_mode_weightedmean_tokens": True}, "got 'weightedmean_tokens'"),
    "prompt in mean": ("1_Pooling/config.json", {"include_prompt": False}, "include_prompt: expected true"),
    "length": ("sentence_bert_config.json", {"max_seq_length": 0}, "max_seq_length: expected a whole number"),
    "prompts": ("config_sentence_transformers.json", {"prompts": {"a": 1}}, "prompts: expected an object of texts"),
    "default": ("config_sentence_transformers.json", {"default_prompt_name": "q"}, "expected a name in prompts"),
    "unknown": ("tokenizer.json", tokenizer_json(unk_token="x"), "unk_token 'x' is not in the vocabulary"),
    "word": ("tokenizer.json", tokenizer_json(max_input_chars_per_word=10**6), "max_input_chars_per_word: expected 1"),
    "decoder": ("config.json", {**ENCODERS["bert"].config, "is_decoder": True}, "is_decoder: expected false"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_invalid_folders(case: str, folder: Path) -> None:
    name, value, message = BAD[case]
    write(folder, name, value)
    with pytest.raises(pyml_nlp.PymlError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_encoders_and_decoders_are_told_apart(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(pyml_nlp.ConfigError, match=r"'bert', an encoder: pyml_nlp\.load_embedder loads it"):
        pyml_nlp.load(folder)
    decoder = tiny_files.write_hf(MODELS["llama"], tmp_path / "llama")
    with pytest.raises(
        pyml_nlp.ConfigError, match=r"encoder \(bert, roberta, xlm-roberta\), found 'llama', which writes texts"
    ):
        pyml_nlp.load_embedder(decoder)


# ---- the command


def test_embed_command(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    expected = load(folder).embed(["cat", "a b"])
    arguments = [str(folder), "--dtype", "f32", "-q"]
    assert run("pyml", ["embed", *arguments, "cat", "a b"]) == 0
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [line["index"] for line in lines] == [0, 1]
    assert np.array_equal(np.array([line["embedding"] for line in lines], np.float32), expected)
    (tmp_path / "texts.txt").write_text("cat\r\na b\n")
    (tmp_path / "texts.jsonl").write_text('{"id": "x", "text": "cat"}\n"a b"\n')
    for name in ("texts.txt", "texts.jsonl"):
        arguments += ["-f", str(tmp_path / name)]
    assert run("pyml", ["embed", *arguments, "-o", str(tmp_path / "out.npy")]) == 0
    assert np.array_equal(np.load(tmp_path / "out.npy"), np.concatenate([expected, expected]))
    assert run("pyml", ["embed", *arguments, "-o", str(tmp_path / "out.jsonl")]) == 0
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line.get("id") for line in lines] == [None, None, "x", None]


def test_errors_of_the_command(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.jsonl").write_text('"a"\n{"txt": "b"}\n')
    for arguments, code, message in (
        ([], 2, "expected a TEXT, or --file with texts"),
        (["a", "-o", "x.csv"], 2, "--output must end in .npy or .jsonl"),
        (["a", "-o", "/none/x.npy"], 1, "/none/x.npy: cannot be written"),
        (["a", "--prompt", "x", "--prompt-name", "y"], 2, "cannot be used with"),
        (["a", "--prompt-name", "y"], 1, "prompt_name must be one of query"),
        (["-f", str(tmp_path / "bad.jsonl")], 1, "bad.jsonl: line 2: expected a text, or an object with a text"),
    ):
        assert run("pyml", ["embed", str(folder), *arguments]) == code
        error = capfd.readouterr().err
        assert message in error
        assert error.count("\n") == 1


# ---- a real model

TEXTS = ("A man is eating food.", "Das ist ein Süßigkeitenladen — naïve café, 你好世界!", "", "The cat sits. " * 100)
EXPECTED = Path(__file__).parent / "goldens" / "real" / "minilm.npz"


@pytest.mark.model
def test_all_minilm_equals_transformers() -> None:
    """Token ids are equal, and vectors within 1e-5 of the mean of transformers' hidden states, normalised."""
    folder = fetch.fetch_minilm()
    embedder = pyml_nlp.load_embedder(folder, dtype="f32", threads=2)
    with np.load(EXPECTED) as golden:
        found = embedder.embed(TEXTS)
        assert abs(found - golden["vectors"]).max() < 1e-5
        assert embedder.tokenizer.encode(TEXTS[1]) == golden["ids"].tolist()
    quantised = pyml_nlp.load_embedder(folder, threads=2).embed(TEXTS)
    assert (quantised * found).sum(axis=1).min() > 0.995
