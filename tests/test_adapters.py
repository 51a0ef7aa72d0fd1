"""Adapters in texts: chosen by name, several in a batch, with caches, drafts and prefixes of their own; bad files."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import pyml_nlp
from pyml_core.errors import PymlError, ShapeError
from pyml_nlp.errors import ArgumentError
from pyml_nlp.language_model import LanguageModel
from pyml_nn import CacheFileError
from tests.helpers import tiny_files
from tests.helpers.tiny_adapters import ADAPTERS, write_gguf, write_peft
from tests.helpers.tiny_models import MODELS

ADAPTER = ADAPTERS["lora_llama"]
PROMPT = MODELS["llama"].prompt[:40]
NAMES = (None, "one", "two", "double")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    tiny_files.write_hf(MODELS["llama"], folder / "model")
    write_peft(ADAPTER, folder / "one")
    write_peft(ADAPTERS["lora_llama_qv"], folder / "two")
    return folder


@pytest.fixture(scope="module")
def lm(folder: Path) -> Iterator[LanguageModel]:
    with load(folder) as loaded:
        yield loaded


def load(folder: Path, **options: Any) -> LanguageModel:
    adapters: dict[str, Any] = {"one": folder / "one", "two": folder / "two", "double": (folder / "one", 2)}
    return pyml_nlp.load(folder / "model", adapters=adapters, threads=2, **options)


def tokens(lm: LanguageModel, adapter: str | None, **options: Any) -> list[int]:
    generation = lm.generate(PROMPT, max_tokens=24, temperature=0, adapter=adapter, **options)
    generation.read()
    return list(generation.completion.tokens)


def test_texts_choose_by_name(lm: LanguageModel, folder: Path) -> None:
    assert lm.adapters == ("one", "two", "double")
    found = {name: tokens(lm, name) for name in NAMES}
    assert len({tuple(text) for text in found.values()}) == len(NAMES)
    with pyml_nlp.load(folder / "model", threads=2) as base:
        assert tokens(base, None) == found[None]
        assert base.adapters == ()
    for name in NAMES:  # now from the prefix cache, each from its own
        assert tokens(lm, name) == found[name]
        assert tokens(lm, name, speculate=False) == found[name]
    assert tokens(lm, "one", draft_model=lm) == found["one"]


def test_texts_of_a_batch_are_those_alone(lm: LanguageModel) -> None:
    found = {name: tokens(lm, name) for name in NAMES}
    lm.prefix_cache.clear()
    names = [*NAMES, *reversed(NAMES)]
    streams = [lm.submit(PROMPT, max_tokens=24, temperature=0, adapter=name) for name in names]
    for name, stream in zip(names, streams, strict=True):
        stream.result()
        assert list(stream.tokens) == found[name], name


def test_a_conversation_can_change_its_adapter(lm: LanguageModel, folder: Path) -> None:
    cache = lm.prefill(PROMPT, adapter="one")
    assert cache.origin != lm.prefill(PROMPT).origin
    message = "^cache: expected a KV cache {}, found one {}$"
    for wanted, text in ((None, "without an adapter"), ("two", "of adapter 'two'")):
        with pytest.raises(ShapeError, match=message.format(text, "of adapter 'one'")):
            lm.generate([1], cache=cache, adapter=wanted)
    with pytest.raises(ShapeError, match=message.format("of adapter 'one'", "without an adapter")):
        lm.generate([1], cache=lm.new_cache(), adapter="one")
    cache.save(folder / "one.cache")
    assert lm.load_cache(folder / "one.cache", adapter="one").ids == list(PROMPT)
    with pytest.raises(CacheFileError, match="another model"):
        lm.load_cache(folder / "one.cache")


def test_logits_and_names(lm: LanguageModel) -> None:
    rows = lm.logits(PROMPT, adapter="one")
    assert not np.array_equal(rows, lm.logits(PROMPT))
    for call in (lambda: lm.logits(PROMPT, adapter="x"), lambda: lm.generate(PROMPT, adapter="x")):
        with pytest.raises(ArgumentError, match=r"^adapter must be one of one, two, double, got 'x'$"):
            call()


def test_pickling(lm: LanguageModel) -> None:
    with pickle.loads(pickle.dumps(lm)) as again:
        assert again.adapters == lm.adapters
        assert np.array_equal(again.logits(PROMPT, adapter="one"), lm.logits(PROMPT, adapter="one"))


def test_packed_models_take_adapters(lm: LanguageModel, folder: Path) -> None:
    pyml_nlp.pack(folder / "model", folder / "packed.pyml")
    with pyml_nlp.load(folder / "packed.pyml", threads=1, adapters=[folder / "one"]) as packed:
        assert np.array_equal(packed.logits(PROMPT, adapter="one"), lm.logits(PROMPT, adapter="one"))


# ---- values and files that are refused


@pytest.mark.parametrize(
    ("adapters", "message"),
    [
        ("one", "adapters must be a list or dictionary of paths, got 'one'"),
        ([3], "adapters must be paths, or pairs of a path and a scale, got 3"),
        ([("a", "b")], "adapters must be a number, got 'b'"),
        ([("a", float("nan"))], "adapters must be paths and finite scales, got 'a' with nan"),
        ([""], "adapters must be paths and finite scales, got '' with 1"),
        (["a", "b/a"], "adapters must have names of their own, got 'a' twice"),
        ({"": "a", "n\n": "b"}, "adapters must be a name of 1 to 100 printable characters"),
        (["a"] * 257, "adapters must be at most 256, got 257"),
    ],
)
def test_wrong_values(adapters: Any, message: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        pyml_nlp.LoadOptions(adapters=adapters)
    assert message in str(caught.value)


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "type": ({"peft_type": "IA3"}, "expected an adapter of peft_type LORA, got 'IA3'"),
    "dora": ({"use_dora": True}, "got DoRA (use_dora): not supported"),
    "modules": ({"modules_to_save": ["lm_head"]}, "got whole layers (modules_to_save): not supported"),
    "bias": ({"bias": "all"}, "expected bias 'none', got 'all': not supported"),
    "pissa": ({"init_lora_weights": "pissa_niter_4"}, "training began from a changed base model"),
    "rank": ({"r": 4}, "expected rank 4 for"),
    "no rank": ({"r": None}, "r: expected a number from 1 for a rank, got 'None'"),
    "alpha": ({"lora_alpha": "8"}, "lora_alpha: expected a number"),
    "regex": ({"rank_pattern": {"(a+)+$": 3}}, "rank_pattern: expected names of modules, got '(a+)+$': not supported"),
    "pattern": ({"alpha_pattern": [1]}, "alpha_pattern: expected an object, got '[1]'"),
}


def refuse(folder: Path, adapter: Path, message: str, model: str = "model") -> None:
    with pytest.raises(PymlError) as caught:
        pyml_nlp.load(folder / model, adapters=[adapter])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", CONFIGS)
def test_wrong_configurations(case: str, folder: Path, tmp_path: Path) -> None:
    config, message = CONFIGS[case]
    refuse(folder, write_peft(ADAPTER, tmp_path / "bad", **config), message)


def test_wrong_tensors(folder: Path, tmp_path: Path) -> None:
    path = write_peft(ADAPTER, tmp_path / "bad")
    weights = path / "adapter_model.safetensors"
    arrays = load_file(weights)
    first = next(name for name in arrays if name.endswith("lora_A.weight"))

    def write(changed: dict[str, Any], message: str) -> None:
        save_file({name: array for name, array in {**arrays, **changed}.items() if array is not None}, weights)
        refuse(folder, path, message)

    write({first.replace("_A", "_B"): None}, "B is missing")
    write({first: np.zeros((5, 3), np.float32)}, "expected A (R, ")
    write({first: np.full_like(arrays[first], np.inf)}, "expected finite numbers")
    write({"base_model.model.x.lora_magnitude_vector": np.zeros(3, np.float32)}, "got that of DoRA: not supported")
    write({"base_model.model.x.lora_embedding_A": np.zeros(3, np.float32)}, "got that of an embedding: not supported")
    both = {f"base_model.model.model.embed_tokens.lora_{half}.weight": np.zeros((5, 5), np.float32) for half in "AB"}
    write(both, "those of embeddings, heads and experts are not supported")
    weights.unlink()
    refuse(folder, path, "adapter_model.bin is not read")
    (path / "adapter_config.json").write_text(json.dumps([1]))
    weights.touch()
    refuse(folder, path, "expected a JSON object, got list")
    refuse(folder, folder / "model", "expected a PEFT adapter with adapter_config.json, found none")
    refuse(folder, tmp_path / "nothing", "there is no such adapter, expected a PEFT folder or a GGUF file")


def test_wrong_gguf_files(folder: Path, tmp_path: Path) -> None:
    if not (folder / "model.gguf").exists():
        tiny_files.write_gguf(MODELS["llama"], folder / "model.gguf")

    def write(message: str, model: str = "model.gguf", **metadata: Any) -> None:
        refuse(folder, write_gguf(ADAPTER, tmp_path / "a.gguf", **metadata), message, model)

    write("metadata 'general.type': expected 'adapter', as in a LoRA adapter, got 'model'", general__type="model")
    write("metadata 'adapter.type': expected 'lora', as in a LoRA adapter, got 'none'", adapter__type=None)
    write("metadata 'adapter.lora.alpha': expected a finite number, got inf", adapter__lora__alpha=float("inf"))
    write("Missing metadata: adapter.lora.alpha", adapter__lora__alpha=None)
    write("activated LoRA", adapter__alora__invocation_tokens="x")
    write("a GGUF adapter for a model of the other format, expected a PEFT adapter", model="model")
    refuse(folder, folder / "one", "a PEFT adapter for a model of the other format, expected a GGUF", "model.gguf")
