"""Models and tokenizers in other processes, as multiprocessing and joblib send them; errors for other objects."""

from __future__ import annotations

import copy
import dataclasses
import json
import multiprocessing
import pickle
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from operator import attrgetter, methodcaller
from pathlib import Path
from typing import Any

import pytest

import pyml_nlp
from pyml_core import CancelToken
from pyml_core.errors import PymlError
from pyml_nlp.errors import ModelFileError
from pyml_nlp.formats.gguf import GGUFFile
from pyml_nlp.formats.safetensors import SafetensorsFolder
from pyml_nlp.generation.generator import Generator
from pyml_nlp.generation.prefix_cache import PrefixCache
from pyml_nlp.language_model import LanguageModel
from pyml_nlp.options import LoadOptions
from pyml_nlp.tokenizer import load_tokenizer

PROMPT = "the cat in the hat"
OPTIONS: dict[str, Any] = {
    "dtype": "q8_0", "threads": 1, "context_length": 100, "prefill_chunk": 16, "prefix_cache_bytes": 12345,
    "screen": False, "kv_dtype": "f16", "allow_unknown_keys": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tiny_dirs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with a chat template."""
    folder = tmp_path_factory.mktemp("pickled") / "llama"
    shutil.copytree(tiny_dirs["llama"], folder)
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    return folder


@pytest.fixture(scope="module")
def lm(folder: Path) -> Iterator[LanguageModel]:
    with pyml_nlp.load(folder, **OPTIONS) as loaded:
        yield loaded


def test_a_model_is_loaded_as_it_was(lm: LanguageModel, folder: Path) -> None:
    data = pickle.dumps(lm)
    assert len(data) < 2000
    with pickle.loads(data) as other:
        assert other is not lm
        assert other.generate_text(PROMPT, max_tokens=8, temperature=0) == lm.generate_text(
            PROMPT, max_tokens=8, temperature=0
        )
        assert other.chat_ids("hello") == lm.chat_ids("hello")
        assert (other.name, other.origin) == (lm.name, lm.origin)
        assert other.origin is not None
        assert other.origin.options == LoadOptions(**OPTIONS)
        assert other.origin.path == folder
        assert (other.context_length, other.prefill_chunk, other.prefix_cache.max_bytes) == (100, 16, 12345)
        assert pickle.dumps(other) == data


def test_every_option_of_loading_goes_along() -> None:
    """Each differs from its default, so that a forgotten one would show; test_adapters.py has one of adapters."""
    assert {name for name, value in OPTIONS.items() if value != getattr(LoadOptions(), name)} == {
        field.name for field in dataclasses.fields(LoadOptions) if field.name != "adapters"
    }


@pytest.mark.parametrize("kind", ["folder", "gguf", "pieces"])
def test_tokenizers_are_loaded_again(
    kind: str, tiny_dirs: dict[str, Path], tiny_ggufs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = {"folder": tiny_dirs["llama"], "gguf": tiny_ggufs["gemma3"], "pieces": tiny_dirs["gemma3"]}[kind]
    monkeypatch.chdir(source.parent)
    tokenizer = load_tokenizer(source.name)
    assert tokenizer.path == source
    monkeypatch.chdir(tmp_path)  # the path is from the root
    other = pickle.loads(pickle.dumps(tokenizer))
    assert other is not tokenizer
    assert other.encode(PROMPT) == tokenizer.encode(PROMPT)
    assert other.fingerprint == tokenizer.fingerprint
    if source.is_file():
        with GGUFFile(source) as file:
            assert load_tokenizer(file).path == source


def test_tokenizers_have_fingerprints_of_all_that_they_do(tiny_dirs: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_dirs["llama"], folder)
    document = json.loads((folder / "tokenizer.json").read_text())
    found = [load_tokenizer(folder).fingerprint]
    assert load_tokenizer(folder).fingerprint == found[0]
    changes: list[Callable[[dict[str, Any]], object]] = [
        lambda d: d["model"]["merges"].pop(),
        lambda d: d["pre_tokenizer"].update(add_prefix_space=True),
        lambda d: d.update(decoder=None),
        lambda d: d["added_tokens"][0].update(lstrip=True),
        lambda d: d.update(normalizer={"type": "NFC"}),
    ]
    for change in changes:
        changed = copy.deepcopy(document)
        change(changed)
        (folder / "tokenizer.json").write_text(json.dumps(changed))
        found.append(load_tokenizer(folder).fingerprint)
    (folder / "tokenizer.json").write_text(json.dumps(document))
    (folder / "chat_template.jinja").write_text("{{ x }}")
    found.append(load_tokenizer(folder).fingerprint)
    assert len(set(found)) == len(changes) + 2


def test_files_that_have_changed(folder: Path, tiny_dirs: dict[str, Path], tmp_path: Path) -> None:
    copied = tmp_path / "llama"
    shutil.copytree(folder, copied)
    with pyml_nlp.load(copied, threads=1) as lm:
        model, tokenizer = pickle.dumps(lm), pickle.dumps(lm.tokenizer)
    (copied / "chat_template.jinja").write_text("other")
    for data, what in ((model, "model"), (tokenizer, "tokenizer")):
        with pytest.raises(ModelFileError, match=f"^{copied}: expected the {what} that was pickled, got another one"):
            pickle.loads(data)
    shutil.copy(folder / "chat_template.jinja", copied)
    pickle.loads(model).close()
    weights = bytearray((copied / "model.safetensors").read_bytes())
    weights[-2] ^= 1
    (copied / "model.safetensors").write_bytes(weights)
    pickle.loads(tokenizer)
    with pytest.raises(ModelFileError, match="expected the model that was pickled"):
        pickle.loads(model)
    shutil.rmtree(copied)
    with pytest.raises(PymlError, match="there is no such"):
        pickle.loads(model)
    with pytest.raises(PymlError, match="no tokenizer"):
        pickle.loads(tokenizer)


def test_copies_are_the_model_itself(lm: LanguageModel) -> None:
    for thing in (lm, lm.tokenizer):
        assert copy.copy(thing) is thing
        assert copy.deepcopy([thing, {"a": thing}]) == [thing, {"a": thing}]


def test_a_pool_of_new_processes(lm: LanguageModel) -> None:
    expected = lm.generate_text(PROMPT, max_tokens=6, temperature=0)
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        texts = [pool.submit(lm.generate_text, PROMPT, max_tokens=6, temperature=0) for _ in range(2)]
        ids = pool.submit(methodcaller("encode", PROMPT), lm.tokenizer)
        fingerprint = pool.submit(attrgetter("tokenizer.fingerprint"), lm)
        error = pool.submit(methodcaller("generate_text", PROMPT, max_tokens=-1), lm)
        steps = pool.submit(methodcaller("score", PROMPT), lm)
        assert [text.result(120) for text in texts] == [expected] * 2
        assert ids.result(120) == lm.tokenizer.encode(PROMPT)
        assert fingerprint.result(120) == lm.tokenizer.fingerprint
        with pytest.raises(PymlError, match="max_tokens"):
            error.result(120)
        assert steps.result(120) == lm.score(PROMPT)
        generation = pool.submit(methodcaller("generate", PROMPT, max_tokens=3), lm)
        with pytest.raises(PymlError, match=r"^Generation: it cannot be pickled or copied: send its text"):
            generation.result(120)


def test_what_belongs_to_one_process(lm: LanguageModel, folder: Path) -> None:
    generation = lm.generate(PROMPT, max_tokens=2, temperature=0)
    with lm.trace() as trace, SafetensorsFolder(folder) as files:
        things = [
            (generation, "send its text, tokens and finish_reason"), (generation.completion, "send its text"),
            (lm.agenerate(PROMPT, max_tokens=2), "send its text"),
            (lm.generate_batch([PROMPT], max_tokens=2), "send the texts"),
            (lm.conversation(), "send its messages"), (lm.new_cache(), r"save it with save\(path\)"),
            (trace, r"save it with save\(path\)"),
            (lm.model, "pickle the LanguageModel"), (lm.model.program, "make one"), (Generator(lm), "make one"),
            (CancelToken(), "make one"), (PrefixCache(), "each process has"), (lm.chat_template, "send the model"),
            (lm.tokenizer.stream_decoder(), r"stream_decoder\(\)"), (files, "open it again"),
            (files.files[0], "open it again"),
        ]  # fmt: skip
        for thing, instead in things:
            for call in (pickle.dumps, copy.copy, copy.deepcopy):
                with pytest.raises(PymlError, match=rf"^{type(thing).__name__}: it cannot be pickled .*: .*{instead}"):
                    call(thing)


def test_models_that_were_not_loaded(lm: LanguageModel, folder: Path) -> None:
    other = LanguageModel(lm.model, lm.tokenizer, name="mine")
    with pytest.raises(PymlError, match=r"^model mine: it was not loaded from a path and cannot be pickled"):
        pickle.dumps(other)
    assert copy.copy(other) is other
    closed = pyml_nlp.load(folder, threads=1)
    closed.close()
    with pytest.raises(PymlError, match="it is closed"):
        pickle.dumps(closed)


def test_tokenizers_that_were_not_loaded(tiny_ggufs: dict[str, Path]) -> None:
    with GGUFFile(tiny_ggufs["gemma3"]) as file:
        metadata = file.metadata

    class Metadata:
        pass

    holder: Any = Metadata()
    holder.metadata = metadata
    tokenizer = load_tokenizer(holder)
    assert tokenizer.path is None
    with pytest.raises(PymlError, match=r"^tokenizer: it was not loaded from a path"):
        pickle.dumps(tokenizer)


def test_errors_go_to_other_processes() -> None:
    kinds = [PymlError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    assert len(kinds) > 8
    for kind in kinds:
        error = pickle.loads(pickle.dumps(kind("one line")))
        assert (type(error), str(error)) == (kind, "one line")
