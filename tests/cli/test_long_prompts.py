"""Prompts that take long to tokenize: deadlines and Ctrl-C end the call, wherever the prompt comes from."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pyml_nlp
from pyml_core.errors import Cancelled
from pyml_nlp.language_model import LanguageModel

TEXT = "a" * 150_000
OPTIONS = ("--max-tokens", 1, "--threads", 1)


@pytest.fixture(scope="module")
def folder(tiny_dirs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama whose tokenizer is as slow as its file may make it: a second for the text."""
    folder = tmp_path_factory.mktemp("slow") / "llama"
    shutil.copytree(tiny_dirs["llama"], folder)
    document = json.loads((folder / "tokenizer.json").read_text())
    split = {"type": "Split", "pattern": {"Regex": "."}, "behavior": "Isolated", "invert": False}
    byte_level = document["pre_tokenizer"] | {"use_regex": False}
    document["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split] * 14 + [byte_level]}
    (folder / "tokenizer.json").write_text(json.dumps(document))
    (folder / "chat_template.jinja").write_text("{{ messages[-1].content }}")
    return folder


@pytest.fixture(scope="module")
def lm(folder: Path) -> Iterator[LanguageModel]:
    with pyml_nlp.load(folder, threads=1) as loaded:
        yield loaded


@pytest.mark.parametrize(
    "call",
    [
        lambda lm: lm.generate(TEXT, max_tokens=3, timeout=0.2, temperature=0),
        lambda lm: lm.generate_text(TEXT, max_tokens=3, timeout=0.2, temperature=0),
        lambda lm: lm.generate_batch(["a", TEXT], max_tokens=3, timeout=0.2, temperature=0),
        lambda lm: lm.agenerate(TEXT, max_tokens=3, timeout=0.2, temperature=0),
        lambda lm: lm.chat(TEXT, max_tokens=3, timeout=0.2, temperature=0),
        lambda lm: lm.conversation().send(TEXT, max_tokens=3, timeout=0.2),
    ],
)
def test_timeouts_from_python(call: Callable[[LanguageModel], Any], lm: LanguageModel) -> None:
    lm.chat_template.start()
    before, start = set(threading.enumerate()), time.monotonic()
    with pytest.raises(Cancelled, match="the timeout has passed while the prompt was turned into tokens"):
        call(lm)
    assert time.monotonic() - start < 1.5
    assert set(threading.enumerate()) - before  # the tokenizer is still at work
    while len(lm.tokenizer.encode("a")) != 1:  # waits for the call in the background
        pass


def test_the_rest_of_a_timeout_is_for_the_answer(lm: LanguageModel) -> None:
    generation = lm.chat("a", max_tokens=100, timeout=60, temperature=0)
    assert generation.finish_reason is None
    assert [step.index for step in generation] == list(range(len(generation.tokens)))
    assert generation.finish_reason in ("length", "stop")


@pytest.mark.parametrize("options", [(), ("--chat",)])
def test_timeout_of_the_command(options: tuple[str, ...], commands: Any, folder: Path) -> None:
    result = commands.infer(folder, *options, *OPTIONS, "-q", "--timeout", 0.3, stdin=TEXT.encode())
    assert (result.code, result.stdout) == (1, b"")
    assert result.error == "Error: the timeout has passed while the prompt was turned into tokens"


def test_ctrl_c(commands: Any, folder: Path) -> None:
    with commands.start("pyml-infer", folder, *OPTIONS, "-v", stdin=subprocess.PIPE) as process:
        process.stdin.write(TEXT.encode())
        process.stdin.close()
        while b"Model ready" not in process.stderr.readline():
            pass
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        assert process.wait(60) == 130
        assert time.monotonic() - start < 2
        assert process.stderr.read().decode().splitlines()[-1] == "Error: interrupted"
