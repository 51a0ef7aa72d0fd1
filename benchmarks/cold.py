"""Cold start: time and peak memory of a new process that loads a model, writes a few tokens and exits."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from engines import PEERS, Engine, EngineError, variables_for

PROMPT = "The capital of France is"
TOKENS = 16


def command(engine: Engine, python: Path, model: Path, threads: int) -> list[str]:
    """Return the command: pyml's command line; for other engines a script like the first one in their documentation."""
    if engine.own:
        rest = ["--prompt", PROMPT, "--max-tokens", str(TOKENS), "--temperature", "0", "--threads", str(threads)]
        source = ["--safetensors", str(model)] if model.is_dir() else [str(model)]
        return [str(python), "-m", "pyml_nlp.cli.main", "infer", *source, *rest]
    module = engine.runner[-1].removeprefix("run_").removesuffix(".py")
    return [str(python), str(PEERS / "cold.py"), module, str(model), str(threads), PROMPT, str(TOKENS)]


def start(engine: Engine, python: Path, model: Path, threads: int, log: Path) -> tuple[float, float]:
    """Return the seconds from start to exit, and the peak of resident memory in MB (1e6 bytes).

    Raises:
        EngineError: the process failed.
    """
    with log.open("w") as stderr:
        begin = time.perf_counter()
        process = subprocess.Popen(
            command(engine, python, model, threads),
            env=variables_for(engine, threads),
            stdin=subprocess.DEVNULL,
            stdout=stderr,
            stderr=stderr,
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise EngineError(f"cold start: exit code {process.returncode}, see {log.name} among the logs")
    return seconds, usage.ru_maxrss * 1024 / 1e6


@dataclass
class ColdRow:
    """Cold starts on one model: one figure for each round and engine."""

    model: str
    seconds: dict[str, list[float]] = field(default_factory=dict)
    peak_mb: dict[str, list[float]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    def measure(self, engine: Engine, python: Path, model: Path, threads: int, log: Path) -> None:
        """Measure one more start."""
        seconds, peak = start(engine, python, model, threads, log)
        self.seconds.setdefault(engine.name, []).append(seconds)
        self.peak_mb.setdefault(engine.name, []).append(peak)

    def as_json(self) -> dict[str, Any]:
        """Everything measured, with medians."""
        engines: dict[str, Any] = {
            name: {"median": median(seconds), "seconds": seconds, "peak_mb": median(self.peak_mb[name])}
            for name, seconds in self.seconds.items()
        }
        engines |= {name: {"error": error} for name, error in self.errors.items()}
        return {"model": self.model, "engines": engines}
