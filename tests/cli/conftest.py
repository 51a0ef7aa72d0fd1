"""The commands as processes of their own, on tiny random models."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import pyml_nlp
from pyml_nlp.language_model import LanguageModel
from tests.cli.chats import with_template
from tests.helpers import tiny_files, tiny_models

CODE = "import sys; from pyml_nlp.cli.main import _command; _command(sys.argv.pop(1))"


def _restore_signals() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background may have inherited "ignore"


@dataclass(frozen=True)
class Result:
    """The result of a process: exit code, and its output as bytes and as strictly decoded text."""

    code: int
    stdout: bytes
    stderr: str

    @property
    def text(self) -> str:
        """stdout, which must be UTF-8."""
        return self.stdout.decode()

    @property
    def error(self) -> str:
        """The only line of stderr."""
        lines = self.stderr.splitlines()
        assert len(lines) == 1, self.stderr
        return lines[0]


class Commands:
    """Runs ``pyml``, ``pyml-infer`` and ``pyml-bench``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """Nothing of the caller's settings, a cache of its own, no network."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYML_", "HF_"))}
        if level := os.environ.get("PYML_CPU_LEVEL"):
            kept["PYML_CPU_LEVEL"] = level
        own = {
            "HF_HOME": str(self.folder / "hf"),
            "HF_HUB_OFFLINE": "1",
            "PYML_CACHE": str(self.folder / "cache"),
            "XDG_CONFIG_HOME": str(self.folder / "config"),
            "XDG_STATE_HOME": str(self.folder / "state"),
        }
        return kept | own | dict(extra or {})

    def start(
        self,
        name: str,
        *arguments: object,
        env: Mapping[str, str] | None = None,
        shell: str = "",
        prepare: Callable[[], object] = lambda: None,
        **options: Any,
    ) -> Any:
        """A running process.

        Args:
            name, arguments: of the command.
            env: in addition to :meth:`environment`.
            shell: redirections that only a shell can make.
            prepare: called in the process before it runs; see :mod:`processes`.
            options: as of Popen.
        """

        def begin() -> None:
            _restore_signals()
            prepare()

        prefix = ["sh", "-c", f'exec "$@" {shell}', "sh"] if shell else []
        return subprocess.Popen(
            [*prefix, sys.executable, "-c", CODE, name, *map(str, arguments)],
            **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options,
            env=self.environment(env),
            preexec_fn=begin,
        )

    def run(self, name: str, *arguments: object, stdin: bytes | None = None, **options: Any) -> Result:
        """A process that has ended."""
        if stdin is not None:
            options["stdin"] = subprocess.PIPE
        with self.start(name, *arguments, **options) as process:
            stdout, stderr = process.communicate(stdin, timeout=120)
        text = (stderr or b"").decode()
        assert "Traceback" not in text, text
        return Result(process.returncode, stdout or b"", text)

    def infer(self, *arguments: object, **options: Any) -> Result:
        """``pyml-infer``."""
        return self.run("pyml-infer", *arguments, **options)

    def bench(self, *arguments: object, **options: Any) -> Result:
        """``pyml-bench``."""
        return self.run("pyml-bench", *arguments, **options)

    def inspect(self, *arguments: object, **options: Any) -> Result:
        """``pyml inspect``."""
        return self.run("pyml", "inspect", *arguments, **options)


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Commands:
    """Runs the commands."""
    return Commands(tmp_path_factory.mktemp("commands"))


@pytest.fixture(scope="session")
def model(tiny_dirs: dict[str, Path]) -> Path:
    """A GPT-2 folder; its context holds 128 tokens."""
    return tiny_dirs["gpt2"]


@pytest.fixture(scope="session")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama folder that never ends a text, with a context whose keys and values no machine holds."""
    base = tiny_models.MODELS["llama"]
    config = {
        **base.config, "max_position_embeddings": 1 << 24, "num_hidden_layers": 12, "num_attention_heads": 8,
        "num_key_value_heads": 8, "head_dim": 64, "eos_token_id": None,
    }  # fmt: skip
    folder = tiny_files.write_hf(replace(base, config=config), tmp_path_factory.mktemp("endless"))
    (folder / "tokenizer_config.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def instruct(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GPT-2 with a chat template; its context holds 128 tokens."""
    return with_template(model, tmp_path_factory.mktemp("instruct") / "model")


@pytest.fixture(scope="module")
def endless_instruct(endless: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that never ends an answer."""
    return with_template(endless, tmp_path_factory.mktemp("endless-instruct") / "model")


@pytest.fixture(scope="module")
def lm(instruct: Path) -> Iterator[LanguageModel]:
    with pyml_nlp.load(instruct, threads=1) as loaded:
        yield loaded
