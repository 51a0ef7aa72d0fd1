"""Quality next to speed: how far each engine's next-token distributions lie from those of the same weights in f32.

The reference is pyml in f32 of the GGUF file that all engines' files come from. A text is cut into windows, of which
the last positions are compared, after the ids before them. Results are kept in files, by engine, version and model, so
that another run does not repeat them.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from engines import Engine, EngineError, Runner

QUALITY = "quality"
REFERENCE = Engine("pyml-f32", ("run_pyml.py", "f32"))
WINDOW, SCORED, WINDOWS = 320, 256, 10
"""Ids of a window, positions of it that are compared, and number of windows: 2 560 positions."""

Say = Callable[[str], None]


@dataclass
class Divergence:
    """One engine's divergence from the reference, position by position."""

    klds: list[float] = field(default_factory=list)
    same_top: int = 0

    def add(self, answer: dict[str, Any]) -> None:
        """Add an engine's answer about a window."""
        self.klds += answer["kld"]
        self.same_top += answer["same_top"]

    def as_json(self) -> dict[str, Any]:
        """Mean and largest KL divergence in nats, and the share of positions with the same most probable token."""
        count = len(self.klds)
        return {
            "kld": fmean(self.klds), "max_kld": max(self.klds), "same_top": self.same_top / count, "positions": count,
        }  # fmt: skip


def windows(ids: list[int]) -> list[list[int]]:
    """The windows of a text, one after the other; each begins with the text's first id, as it may be a special one.

    Raises:
        ValueError: the text is too short.
    """
    step = WINDOW - 1
    if len(ids) < 1 + WINDOWS * step:
        raise ValueError(f"quality needs {1 + WINDOWS * step} ids, the text has {len(ids)}")
    return [[ids[0], *ids[1 + i * step : 1 + (i + 1) * step]] for i in range(WINDOWS)]


def key(name: str, about: Mapping[str, Any], model: Path, ids: list[int]) -> str:
    """The name of a result's file: a digest of everything that it depends on."""
    files = sorted(model.rglob("*")) if model.is_dir() else [model]
    stored = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files if path.is_file()]
    facts = [name, {part: about.get(part) for part in ("version", "note", "build")}, stored, ids, WINDOW, SCORED]
    return f"{name}-{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:20]}"


class Quality:
    """The divergence of all engines on one model.

    Args:
        folder: where results are kept.
        ids: of the text.
        start_reference: starts the reference's process; called if a result is missing.
        say: reports progress.
    """

    def __init__(self, folder: Path, ids: list[int], start_reference: Callable[[], Runner], say: Say) -> None:
        self.folder = folder
        self.ids = ids
        self.start_reference = start_reference
        self.say = say

    def measure(self, runners: Mapping[str, Runner], models: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
        """By engine: the figures of :class:`Divergence`, or the error."""
        parts = windows(self.ids)
        keys = {name: key(name, runner.about, models[name], self.ids) for name, runner in runners.items()}
        files = {name: self.folder / f"{digest}.json" for name, digest in keys.items()}
        found: dict[str, dict[str, Any]] = {
            name: {**json.loads(path.read_text()), "kept": True} for name, path in files.items() if path.exists()
        }
        missing = {name: Divergence() for name in runners if name not in found}
        if not missing:
            return found
        with tempfile.TemporaryDirectory(dir=self.folder.parent) as folder:
            path = str(Path(folder, "logits.npy"))
            reference = self.start_reference()
            try:
                for number, ids in enumerate(parts):
                    asked = {"ids": ids, "first": WINDOW - SCORED, "path": path}
                    reference.ask(command="logits", **asked)
                    for name in list(missing):
                        try:
                            missing[name].add(runners[name].ask(command="diverge", **asked))
                        except EngineError as error:
                            found[name] = {"error": str(error)}
                            del missing[name]
                    self.say(f"quality: window {number + 1} of {len(parts)}")
            finally:
                reference.close()
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, divergence in missing.items():
            found[name] = divergence.as_json()
            files[name].write_text(json.dumps(found[name]) + "\n")
        return found
