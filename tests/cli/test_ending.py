"""Ctrl-C at any moment of a command: one line, exit code 130."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

AT_AN_IMPORT = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path, target=None):
        if name == {name!r}:
            for _ in range({times}):
                os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
"""
AT_THE_END = """
import atexit, os, signal
for _ in range(3):
    atexit.register(os.kill, os.getpid(), signal.SIGINT)
"""
WHILE_IT_IS_TOLD = """
import os, signal, sys

class Stderr:
    def write(self, text):
        os.kill(os.getpid(), signal.SIGINT)
        return len(text)

    def flush(self):
        os.kill(os.getpid(), signal.SIGINT)

def load_command(name):
    os.kill(os.getpid(), signal.SIGINT)

from pyml_nlp.cli import main
main.load_command, sys.stderr = load_command, Stderr()
"""
WHERE_NOTHING_CATCHES_IT = """
import os, signal, sys

class Thing:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)

def load_command(name):
    thing = Thing()
    del thing
    print("it was lost")

from pyml_nlp.cli import main
main.load_command = load_command
"""


def run(before: str, *arguments: object, ignored: bool = False) -> subprocess.CompletedProcess[str]:
    """``pyml-infer`` with these arguments, in a process that does something else before."""
    code = f"import sys\nsys.argv[0] = 'pyml-infer'{before}\nfrom pyml_nlp.cli.main import infer_main\ninfer_main()"
    handler: Any = signal.SIG_IGN if ignored else signal.default_int_handler
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=120,
        preexec_fn=lambda: signal.signal(signal.SIGINT, handler),
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def arguments(model: Path) -> tuple[object, ...]:
    """A command with the imports of most commands."""
    return (model, "--prompt", "the cat", "--max-tokens", 2, "-q")


@pytest.mark.parametrize(
    "name",
    [
        "gc", "click", "click.core", "pyml_nlp.cli.infer", "numpy", "numpy._core.multiarray", "pyml_core._native",
        "pyml_nlp.language_model", "pyml_nn.models.gpt2", "tokenizers",
    ],
)  # fmt: skip
@pytest.mark.parametrize("times", [1, 3])
def test_at_an_import(name: str, times: int, arguments: tuple[object, ...]) -> None:
    done = run(AT_AN_IMPORT.format(name=name, times=times), *arguments)
    assert (done.returncode, done.stderr.strip()) == (130, "Error: interrupted")


def test_at_the_end(arguments: tuple[object, ...]) -> None:
    done = run(AT_THE_END, *arguments)
    assert (done.returncode, done.stderr) == (130, "Error: interrupted\n")


def test_while_it_is_told(arguments: tuple[object, ...]) -> None:
    done = run(WHILE_IT_IS_TOLD, *arguments)
    assert (done.returncode, done.stdout) == (130, "")


def test_where_nothing_catches_it(arguments: tuple[object, ...]) -> None:
    done = run(WHERE_NOTHING_CATCHES_IT, *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Error: interrupted\n")


def test_ignored_in_the_background(arguments: tuple[object, ...]) -> None:
    done = run(AT_AN_IMPORT.format(name="numpy", times=2) + AT_THE_END, *arguments, ignored=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["pyml", "pyml-infer", "pyml-bench", "pyml-audit"])
def test_scripts_are_ready_as_soon_as_they_import_the_package(name: str) -> None:
    code = f"""
import signal, sys
sys.argv = ["/a/folder/{name}"]
import pyml_nlp.cli
sys.exit(signal.getsignal(signal.SIGINT) is not pyml_nlp.cli.ending.interrupt or "typing" in sys.modules)
"""
    handler = signal.default_int_handler
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], env={"PYTHONPATH": ":".join(sys.path)}, check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, handler),
    )  # fmt: skip
    assert done.returncode == 0


def test_an_application_keeps_its_handler() -> None:
    code = "import signal, pyml_nlp.cli.main as main; main.run('pyml', ['--help']); handler = signal.getsignal(2)"
    code += "; raise SystemExit(handler is not signal.default_int_handler)"
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, stdout=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert done.returncode == 0
