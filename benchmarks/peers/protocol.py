"""Shared by the runners: JSON lines with compare.py, the tests, and the choice of an engine's fastest setting.

A runner is a process that loads one model once and then runs one test after the other:

    {"command": "load", "model": PATH, "threads": 2}   -> {"version": .., "note": ..}
    {"command": "encode", "path": TEXT_FILE}           -> {"ids": [..]}
    {"command": "feed", "ids": [..]}                   -> {}                  what tests on text run on
    {"command": "prepare", "test": "pp512"}            -> {"setting": ..}     untimed, picks the setting
    {"command": "run", "test": "pp512", "setting": .., "seed": 1}  -> {"seconds": .., "tokens": ..}
    {"command": "logits", "ids": [..], "first": 64, "path": FILE.npy}  -> {}  written: float32, from position 64 on
    {"command": "diverge", "ids": [..], "first": 64, "path": FILE.npy} -> {"kld": [..], "same_top": ..}  from those

An answer is one line of JSON; ``{"error": ..}`` is the reason for a failure. This file needs the standard library only.
"""

from __future__ import annotations

import json
import os
import random
import re
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHUNK = 512  # tokens of prefill that every engine gets at a time
MAX_WARM_UP = 1.0  # seconds after which an engine's settings are not tried a second time
MIN_SECONDS = 0.3  # a shorter run is repeated until it has taken this long
PROMPT = 64  # tokens before a text that rules choose
NOT_OFFERED = "not offered"  # an error that begins so tells what an engine lacks


@dataclass(frozen=True)
class Rules:
    """How tokens are chosen: in this order, penalty, temperature (0: the most probable token), top-k, top-p."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0


RULES = {
    "sampled": Rules(1.0, 64, 0.95),
    "nucleus": Rules(0.8, 0, 0.95),
    "penalty": Rules(0.0, repetition_penalty=1.1),
}


class NotOffered(Exception):
    """An engine lacks what a test asks for."""


@dataclass(frozen=True)
class Test:
    """One measurement: ``ppP`` (prefill of P tokens) or ``tgN`` (N decode steps), on random token ids.

    ``@dD`` after it is a depth, ``@bB`` sequences side by side, ``@text`` the ids of a text, of which only the most
    probable next token is asked. ``@sampled``, ``@nucleus`` and ``@penalty`` (see ``RULES``) are texts that the engine
    writes: each token is chosen by the rules and fed back, after a prompt of D tokens of a text.

    Attributes:
        prefill: True for ``pp``.
        tokens: P or N, a sequence.
        depth: tokens already in the cache.
        batch: sequences decoding together.
        text: the ids are those of a text.
        rules: name of the rules that choose the tokens; None: they are given.
    """

    name: str
    prefill: bool
    tokens: int
    depth: int = 0
    batch: int = 1
    text: bool = False
    rules: str | None = None

    @classmethod
    def parse(cls, name: str) -> Test:
        """The test of that name; ValueError if it names none."""
        match = re.fullmatch(rf"(pp|tg)([1-9]\d*)((?:@[db][1-9]\d*)*)(@text|@{'|@'.join(RULES)})?", name)
        if not match:
            raise ValueError(
                f"no such test: {name!r} (expected ppP or tgN, then @dDEPTH, @bBATCH, @text or @{', @'.join(RULES)})"
            )
        options = {part[0]: int(part[1:]) for part in match[3].split("@")[1:]}
        rules = match[4][1:] if match[4] and match[4] != "@text" else None
        depth = options.get("d", PROMPT if rules else 0)
        test = cls(name, match[1] == "pp", int(match[2]), depth, options.get("b", 1), bool(match[4]), rules)
        if test.prefill and (test.batch > 1 or test.rules):
            raise ValueError(f"test {name!r}: a batch and rules are for tg only")
        return test

    @property
    def context(self) -> int:
        """Positions that one sequence needs."""
        return self.depth + self.tokens

    @property
    def total(self) -> int:
        """Tokens that a run is credited with."""
        return self.tokens * self.batch


class Engine(ABC):
    """One engine with one model loaded."""

    name = "?"
    settings: tuple[str, ...] = ("default",)  # prepare() picks the fastest of them, test by test

    def __init__(self, model: str, threads: int) -> None:
        self.model = model
        self.threads = threads
        self.text_ids: list[int] = []

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Version and whatever a reader of the table must know: ``version``, ``note``, ``vocab_size``."""

    @abstractmethod
    def measure(self, test: Test, setting: str, ids: Callable[[int], list[int]]) -> float:
        """Seconds that the test took; ``ids(n)`` gives the next n token ids."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, for tests on text."""
        raise NotImplementedError(f"{self.name} cannot be given a text")

    def logits(self, ids: list[int], first: int) -> Any:
        """The logits after each of these ids from ``first`` on: a NumPy array, float32 (positions, vocabulary)."""
        raise NotOffered("the logits of many positions")

    def release(self, test: Test, setting: str) -> None:  # noqa: B027 (most engines keep nothing for a setting)
        """Drop the results of settings that were not chosen."""

    def source(self, seed: int, test: Test) -> Callable[[int], list[int]]:
        """Where a run's ids come from: the text, or random ids that differ (so that no prefix can be reused)."""
        numbers = random.Random(f"{test.name} {seed}")  # else a longer test begins as a shorter one: a prefix to reuse
        if test.text:
            needed = test.depth * test.batch if test.rules else test.context
            spare = len(self.text_ids) - needed - 1
            if spare < 0:
                raise ValueError(f"{test.name} needs {needed} ids, the text has {len(self.text_ids)}")
            start = numbers.randint(0, spare)
            stream = iter(self.text_ids[start:] * test.batch)
            return lambda n: [next(stream) for _ in range(n)]
        size = self.describe()["vocab_size"]
        return lambda n: [numbers.randrange(300, size - 300) for _ in range(n)]

    def run(self, test: Test, setting: str, seed: int) -> dict[str, Any]:
        """Measure a test, more than once if it is short."""
        seconds, tokens, turn = 0.0, 0, 0
        while seconds < MIN_SECONDS:
            seconds += self.measure(test, setting, self.source(seed * 1000 + turn, test))
            tokens += test.total
            turn += 1
        return {"seconds": seconds, "tokens": tokens}

    def prepare(self, test: Test) -> dict[str, Any]:
        """Warm up and choose the setting: the best of up to four turns of each, in alternation."""
        best: dict[str, float] = {}
        begin = clock()
        for turn in range(4):
            for setting in self.settings:
                seconds = self.measure(test, setting, self.source(-1 - turn, test))
                best[setting] = min(seconds, best.get(setting, seconds))
            if len(self.settings) == 1 or clock() - begin > MAX_WARM_UP:
                break
        chosen = min(best, key=lambda setting: best[setting])
        for setting in self.settings:
            if setting != chosen:
                self.release(test, setting)
        return {"setting": chosen, "tried": {name: test.total / seconds for name, seconds in best.items()}}


def clock() -> float:
    """Seconds, monotonic."""
    return time.perf_counter()


def compare_logits(engine: Engine, command: str, ids: list[int], first: int, path: str) -> dict[str, Any]:
    """Write an engine's logits to a file, or return their divergence from those in it."""
    import numpy as np

    from peers.divergence import divergence

    logits = engine.logits(ids, first)
    if command == "logits":
        np.save(path, logits)
        return {}
    return divergence(np.load(path, mmap_mode="r"), logits)


def serve(make: Callable[[str, int], Engine]) -> None:
    """Answer compare.py's commands until stdin ends. Whatever else writes to stdout is sent to stderr."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    engine: Engine | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["command"] == "load":
                engine = make(request["model"], request["threads"])
                answer = engine.describe()
            elif engine is None:
                raise RuntimeError("nothing is loaded")
            elif request["command"] == "encode":
                answer = {"ids": engine.encode(Path(request["path"]).read_text(encoding="utf-8"))}
            elif request["command"] == "feed":
                engine.text_ids = request["ids"]
                answer = {}
            elif request["command"] in ("logits", "diverge"):
                answer = compare_logits(engine, **request)
            elif request["command"] == "prepare":
                answer = engine.prepare(Test.parse(request["test"]))
            else:
                answer = engine.run(Test.parse(request["test"]), request["setting"], request["seed"])
        except NotOffered as error:
            answer = {"error": f"{NOT_OFFERED}: {error}"}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        out.write(json.dumps(answer) + "\n")
        out.flush()
