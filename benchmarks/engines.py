"""The engines that are compared, and the process that runs one of them."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from environments import python_of
from models import Files

PEERS = Path(__file__).parent / "peers"
PATIENCE = 600.0  # seconds that one command may take
PROJECT = "pyml"


@dataclass(frozen=True)
class Engine:
    """One engine, or one way of running it.

    Attributes:
        name: as in the tables.
        runner: script of ``peers`` that measures it, and the script's arguments.
        files: the files that it loads: ``"gguf"``, ``"hf"`` or ``"openvino"``; see :class:`models.Files`.
        environment: where it is installed, one of ``environments.ENVIRONMENTS``; None: pyml's own environment.
        variables: environment variables of its process.
        tests: the tests that it takes part in unless tests are named; empty: all.
        large: whether it takes part where a model is gigabytes, which all engines have in memory at a time.
    """

    name: str
    runner: tuple[str, ...]
    files: str = "gguf"
    environment: str | None = None
    variables: dict[str, str] = field(default_factory=dict)
    tests: tuple[str, ...] = ()
    large: bool = False

    @property
    def own(self) -> bool:
        """Whether it is pyml."""
        return self.environment is None

    def python(self, environments: Path, own: Path, published: bool = False) -> Path:
        """Its interpreter; the environment is made first if it has to be, of a published wheel if there is one.

        ``own`` is the interpreter that has pyml.
        """
        return own if self.environment is None else python_of(environments, self.environment, published)

    def model(self, files: Files) -> Path:
        """Return the file or folder that it loads."""
        made: Path = {"gguf": files.gguf, "hf": files.hf, "openvino": files.openvino}[self.files]()
        return made


_OWN, _LLAMA = ("run_pyml.py",), ("run_llama_cpp.py", "llama_cpp")
_FEW = ("pp512", "tg64", "cold", "quality")
_RULED = ("tg64@sampled", "tg64@nucleus", "tg64@penalty", "tg64@b8@sampled")
_ONE = ("pp128", "pp512", "pp4096", "tg64", "tg64@text", "tg64@d2048@text", "quality", *_RULED)  # no ids of a batch
ENGINES = {
    engine.name: engine
    for engine in (
        Engine(PROJECT, _OWN, large=True),
        Engine("pyml-q8_0", _OWN, "hf", tests=(*_FEW, "pp128", "tg64@text")),
        Engine("llama.cpp", _LLAMA, environment="llama.cpp", large=True),
        Engine("ik_llama.cpp", ("run_llama_cpp.py", "ik_llama_cpp"), "gguf", "ik_llama.cpp", tests=_ONE, large=True),
        Engine("openvino", ("run_openvino.py",), "openvino", "openvino", tests=(*_ONE, "cold")),
        Engine("transformers", ("run_transformers.py",), "hf", "transformers", tests=_FEW),
        Engine("pyml-avx2", _OWN, variables={"PYML_CPU_LEVEL": "avx2"}, tests=_FEW),
        Engine("llama.cpp-avx2", _LLAMA, environment="llama.cpp-avx2", tests=_FEW),
    )
}
_PEERS = ("llama.cpp", "ik_llama.cpp", "openvino", "transformers")
CONTESTS = {PROJECT: _PEERS, "pyml-q8_0": _PEERS, "pyml-avx2": ("llama.cpp-avx2",)}
"""The engines that each variant of pyml is compared with."""


class EngineError(Exception):
    """An engine could not be set up, or could not run a test."""


def variables_for(engine: Engine, threads: int) -> dict[str, str]:
    """Return the environment of an engine's process. Byte code is cached, as in an installed package."""
    variables = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", **engine.variables}
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    return variables


class Runner:
    """An engine's process. It is stopped (SIGSTOP) between commands.

    Args:
        engine: the engine.
        python: interpreter of its environment.
        model: file or folder that it loads.
        threads: number of threads.
        log: file for its stderr.
    """

    def __init__(self, engine: Engine, python: Path, model: Path, threads: int, log: Path) -> None:
        script, *arguments = engine.runner
        self.log = log.open("w")
        self.process = subprocess.Popen(
            [str(python), str(PEERS / script), *arguments],
            env={**variables_for(engine, threads), "PYTHONPATH": str(PEERS.parent)},  # its imports: peers.protocol
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )
        try:
            self.about = self.ask(command="load", model=str(model.resolve()), threads=threads)
        except EngineError:
            self.close()
            raise

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a command and return the answer.

        Raises:
            EngineError: the engine reports an error, has ended, or does not answer in time.
        """
        assert self.process.stdin
        assert self.process.stdout
        try:
            self.process.send_signal(signal.SIGCONT)
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            if not select.select([self.process.stdout], [], [], PATIENCE)[0]:
                self.process.kill()
                self.process.wait()
                raise EngineError(f"no answer in {PATIENCE:.0f} s")
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            log = Path(self.log.name).name
            raise EngineError(f"its process ended (exit code {self.process.wait()}, see {log} among the logs)")
        self.process.send_signal(signal.SIGSTOP)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise EngineError(answer["error"])
        return answer

    @property
    def ended(self) -> bool:
        """Whether the process has ended."""
        return self.process.poll() is not None

    def close(self) -> None:
        """End the process."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            assert self.process.stdin
            self.process.stdin.close()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()
