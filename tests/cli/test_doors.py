"""Python's methods and the command line have the same options, defaults and texts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import pyml_nlp
from pyml_nlp import ChatOptions, GenerationOptions, SamplingOptions
from tests.helpers import tiny_files, tiny_models

PROMPT = "the cat in the hat"
TEMPLATE = "{% for m in messages %}{{ m.content }} {% endfor %}"


@pytest.fixture(scope="module")
def folder(tiny_dirs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose folder says how to sample."""
    found = shutil.copytree(tiny_dirs["gemma3"], tmp_path_factory.mktemp("doors") / "model")
    (found / "generation_config.json").write_text('{"do_sample": true, "temperature": 3.0, "top_k": 7}')
    config = json.loads((found / "tokenizer_config.json").read_text())
    (found / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": TEMPLATE}))
    return found


def sampled_gguf(path: Path) -> Path:
    """The same model as a GGUF file that says the same."""

    def add(writer: Any) -> None:
        writer.add_float32("general.sampling.temp", 3.0)
        writer.add_int32("general.sampling.top_k", 7)

    return tiny_files.write_gguf(tiny_models.MODELS["gemma3"], path, more=add)


def test_every_door_has_the_models_defaults(folder: Path, commands: Any, tmp_path: Path) -> None:
    expected = GenerationOptions(max_tokens=256, sampling=SamplingOptions(3.0, top_k=7, top_p=1.0))
    for path in (folder, sampled_gguf(tmp_path / "model.gguf")):
        with pyml_nlp.load(path, threads=1) as lm:
            assert lm.generation_options == expected
            text = lm.generate_text(PROMPT, seed=4)
            assert text != lm.generate_text(PROMPT, seed=4, temperature=0.8, top_k=0)
            assert lm.generate_text(PROMPT, expected, seed=4) == text
            assert next(lm.generate_batch([PROMPT], seed=4)).text == text
            generation = lm.generate(PROMPT)
            assert generation.completion.options.replace(sampling=expected.sampling) == expected
        assert commands.infer(path, "--prompt", PROMPT, "--seed", "4", "--threads", "1").text == text


def test_batches_and_chats_have_them_too(folder: Path, commands: Any, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text(f"{PROMPT}\n")
    with pyml_nlp.load(folder, threads=1) as lm:
        text = lm.generate_text(PROMPT, seed=4)
        answer = lm.chat(PROMPT, seed=4)
        assert "".join(step.text for step in answer) == "".join(
            step.text for step in lm.chat(PROMPT, seed=4, chat_options=ChatOptions())
        )
        said = "".join(step.text for step in lm.conversation().send(PROMPT, seed=4))
    rules = ("--seed", "4", "--threads", "1")
    assert commands.infer(folder, "--batch-file", tmp_path / "prompts.txt", *rules).text == f"[0] {text}\n"
    assert commands.infer(folder, "--prompt", PROMPT, "--chat", *rules).text == answer.text == said
    shown = commands.infer(
        folder, "--interactive", "-q", "--max-tokens", "256", *rules, stdin=f"{PROMPT}\n".encode()
    ).text
    assert shown == f"{answer.text}\n"


def test_keywords_objects_and_flags_give_the_same_text(folder: Path, commands: Any) -> None:
    options = GenerationOptions(9, SamplingOptions(1.5, top_k=7, top_p=0.9, min_p=0.01, seed=3), stop=("zz",))
    flags = ("--max-tokens", "9", "--temperature", "1.5", "--top-p", "0.9", "--min-p", "0.01", "--seed", "3")
    with pyml_nlp.load(folder, threads=1) as lm:
        text = lm.generate_text(PROMPT, options)
        words: dict[str, Any] = {"max_tokens": 9, "temperature": 1.5, "top_p": 0.9, "min_p": 0.01, "seed": 3}
        assert lm.generate_text(PROMPT, **words, stop="zz") == text
    assert commands.infer(folder, "--prompt", PROMPT, *flags, "--stop", "zz", "--threads", "1").text == text


def test_the_projects_defaults(model: Path, commands: Any) -> None:
    with pyml_nlp.load(model, threads=1) as lm:
        assert lm.generation_options == GenerationOptions()
        text = lm.generate_text(PROMPT, temperature=0.8, top_p=0.95, min_p=0.05, max_tokens=256, seed=4)
        assert lm.generate_text(PROMPT, seed=4) == text
    assert commands.infer(model, "--prompt", PROMPT, "--seed", "4", "--threads", "1").text == text


def test_invalid_values_of_a_file_are_warnings(folder: Path, commands: Any, tmp_path: Path) -> None:
    found = shutil.copytree(folder, tmp_path / "model")
    (found / "generation_config.json").write_text('{"temperature": -2, "top_p": "most"}')
    run = ("--prompt", PROMPT, "--max-tokens", "2", "--threads", "1")
    result = commands.infer(found, *run)
    assert result.code == 0
    path = found / "generation_config.json"
    warnings = [line for line in result.stderr.splitlines() if line.startswith("Warning:")]
    assert warnings == [
        f"Warning: {path}: temperature must be a finite number >= 0.0, got -2; ignored",
        f"Warning: {path}: top_p must be a number, got 'most'; ignored",
    ]
    assert commands.infer(found, *run, "-q").stderr == ""
    with pyml_nlp.load(found, threads=1) as lm:
        assert lm.generation_options == GenerationOptions()


def test_effective_values_are_logged(folder: Path, commands: Any) -> None:
    stderr = commands.infer(folder, "--prompt", PROMPT, "--max-tokens", "1", "--seed", "4", "-v").stderr
    assert "[sampling] temperature=3.0 top_k=7 seed=4" in stderr.splitlines()
    stderr = commands.infer(folder, "--prompt", PROMPT, "--max-tokens", "1", "--temperature", "0", "-v").stderr
    assert "[sampling] greedy" in stderr.splitlines()


def test_an_order_leaves_out_rules_of_the_defaults(folder: Path, commands: Any) -> None:
    flags = ("--prompt", PROMPT, "--max-tokens", "9", "--seed", "3", "--threads", "1", "--sampler-order", "temperature")
    with pyml_nlp.load(folder, threads=1) as lm:
        text = lm.generate_text(PROMPT, GenerationOptions(9, SamplingOptions(3.0, seed=3)))
    assert commands.infer(folder, *flags).text == text
    refused = commands.infer(folder, *flags, "--top-k", "3")
    assert refused.code == 2
    assert refused.error == "Error: --sampler-order must name all rules in use, top_k missing"


def test_help_says_where_defaults_come_from(commands: Any) -> None:
    text = " ".join(commands.infer("--help-all").text.split())
    for default in ("[default: the model's, else 0.8]", "[default: the model's, else 0.95]", "[default: 256]"):
        assert default in text
