"""Compare pyml with other engines: with one model and number of threads, in alternation, in one run.

    python benchmarks/compare.py --models gemma3-270m smollm2-135m --tests pp512 tg64 cold --rounds 5

Each engine runs in its own process and virtual environment, with the model loaded once; all processes except the
measured one are stopped. In each round every engine runs every test, in an order that rotates, and the machine's
limits are measured. Results are written after each round. Needs only the standard library; see README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import machine
import shapes
from cold import ColdRow
from engines import CONTESTS, ENGINES, PROJECT, Engine, EngineError, Runner
from models import CONTEXT, LARGE, MODELS, NAMES, Files
from peers.protocol import Test
from quality import QUALITY, REFERENCE, SCORED, WINDOWS, Quality
from tables import markdown

COLD = "cold"
RULED = ("tg64@sampled", "tg64@nucleus", "tg64@penalty", "tg64@b8@sampled")
TESTS = ("pp128", "pp512", "pp4096", "tg64", "tg64@text", *RULED, "tg64@d2048@text", "tg64@b8", COLD)
LARGE_TESTS = ("pp512", "tg64", "tg64@text")
TEXT = Path(__file__).with_name("text.txt")


@dataclass
class Row:
    """One test on one model: every engine's speed, one figure for each round."""

    model: str
    test: str
    tokens_per_s: dict[str, list[float]] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    read_share: float | None = None

    def contest(self, ours: str) -> dict[str, Any] | None:
        """Return the fastest engine that this variant of pyml is compared with, and the ratio of speeds."""
        peers = {name: speeds for name in CONTESTS[ours] if (speeds := self.tokens_per_s.get(name))}
        mine = self.tokens_per_s.get(ours)
        if not mine or not peers:
            return None
        best = max(peers, key=lambda name: median(peers[name]))
        ratio = median(a / b for a, b in zip(mine, peers[best], strict=False))
        return {"best_peer": best, "ratio": ratio}

    def as_json(self) -> dict[str, Any]:
        """Everything measured, with medians and ratios."""
        contests = {ours: contest for ours in CONTESTS if (contest := self.contest(ours))}
        return {
            "model": self.model,
            "test": self.test,
            "ratios": contests,
            "read_bandwidth_share": self.read_share,
            "engines": {
                name: {
                    "median": median(speeds) if speeds else None,
                    "tokens_per_s": speeds,
                    "setting": self.settings.get(name),
                    "error": self.errors.get(name),
                }
                for name, speeds in self.tokens_per_s.items()
            },
        }


def say(text: str) -> None:
    """Progress, on stderr."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


class Comparison:
    """All tests and rounds on one model.

    Args:
        options: the command line.
        name: name of the model.
        limits: measures the machine.
    """

    def __init__(self, options: argparse.Namespace, name: str, limits: machine.Limits) -> None:
        self.options = options
        self.files = Files(name, options.cache, options.envs)
        self.limits = limits
        self.measured: list[dict[str, float]] = []
        self.left_out: dict[str, str] = {}
        self.homes: dict[str, tuple[Path, Path]] = {}  # an engine's interpreter and model
        self.text_ids: list[int] = []
        self.runners: dict[str, Runner] = {}
        large = name in LARGE or self.files.sized
        names = options.tests or (LARGE_TESTS if large else TESTS + ((QUALITY,) if name in MODELS else ()))
        context = CONTEXT.get(name, sys.maxsize)
        tests = [Test.parse(test) for test in names if test not in (COLD, QUALITY)]
        tests = [test for test in tests if test.context <= context]
        self.tests = tests
        self.rows: list[Row] = []
        self.cold = ColdRow(self.files.name) if COLD in names else None
        self.wants_quality = QUALITY in names
        self.quality: dict[str, dict[str, Any]] = {}

    def start(self) -> None:
        """Load the model in all engines; engines that cannot be installed are reported and left out."""
        for name in self.options.engines:
            engine = ENGINES[name]
            if self.files.sized and not engine.large:
                continue
            try:
                python = engine.python(self.options.envs, self.options.pyml_python, self.options.wheels)
                model = engine.model(self.files)
                self.homes[name] = (python, model)
                if self.tests or self.wants_quality:
                    self.run_engine(name)
            except (EngineError, OSError, RuntimeError, subprocess.CalledProcessError) as error:
                self.homes.pop(name, None)
                self.left_out[name] = str(error)
                say(f"{self.files.name}: {name} is left out: {error}")
            else:
                say(f"{self.files.name}: {name}: ready")
        for test in self.tests:
            names = [name for name in self.runners if self.wanted(name, test.name)]
            self.rows.append(Row(self.files.name, test.name, {name: [] for name in names}))

    def run_engine(self, name: str) -> None:
        """Start an engine's process, or restart it if it has ended."""
        if name in self.runners:
            self.runners[name].close()
        engine, (python, model) = ENGINES[name], self.homes[name]
        self.runners[name] = Runner(engine, python, model, self.options.threads, self.log(engine))
        if self.text_ids:
            self.runners[name].ask(command="feed", ids=self.text_ids)

    def wanted(self, name: str, test: str) -> bool:
        """Whether an engine runs a test: all run named tests, and slow engines only some of the default ones."""
        tests = ENGINES[name].tests
        return bool(self.options.tests) or not tests or test in tests

    def log(self, engine: Engine, what: str = "") -> Path:
        """Return the file for an engine's stderr."""
        path: Path = self.options.envs / "logs" / f"{engine.name}-{self.files.name}{what}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def feed_text(self) -> None:
        """Send every engine the ids of the text, encoded by the first engine that can do so."""
        for runner in self.runners.values():
            try:
                self.text_ids = runner.ask(command="encode", path=str(self.options.text.resolve()))["ids"]
            except EngineError:
                continue
            for other in self.runners.values():
                other.ask(command="feed", ids=self.text_ids)
            return

    def prepare(self) -> None:
        """Warm up, and let every engine choose its fastest setting."""
        for row in self.rows:
            for name in row.tokens_per_s:
                try:
                    row.settings[name] = self.runners[name].ask(command="prepare", test=row.test)["setting"]
                except EngineError as error:
                    self.failed(row, name, error)
            say(f"{row.model}: {row.test} prepared")
        if self.cold:
            self.start_cold(None)

    def round(self, number: int) -> None:
        """Run every test on every engine, in an order that rotates."""
        self.measured.append(self.limits.measure())
        say(f"{self.files.name}: round {number + 1}, limits {self.measured[-1]}")
        order = list(self.runners)
        order = order[number % max(len(order), 1) :] + order[: number % max(len(order), 1)]
        for row in self.rows:
            for name in order:
                if name not in row.tokens_per_s or name in row.errors:
                    continue
                try:
                    answer = self.runners[name].ask(
                        command="run", test=row.test, setting=row.settings[name], seed=number
                    )
                    row.tokens_per_s[name].append(answer["tokens"] / answer["seconds"])
                except EngineError as error:
                    self.failed(row, name, error)
        if self.cold:
            self.start_cold(self.cold)

    def start_cold(self, row: ColdRow | None) -> None:
        """Measure a cold start of every engine; an uncounted one first brings files into the system's cache."""
        assert self.cold
        turn = len(self.measured) % max(len(self.homes), 1)  # rotate: the first one starts with caches of the last test
        homes = list(self.homes.items())
        for name, (python, model) in homes[turn:] + homes[:turn]:
            if name in self.cold.errors or not self.wanted(name, COLD):
                continue
            engine = ENGINES[name]
            try:
                (row or ColdRow("")).measure(engine, python, model, self.options.threads, self.log(engine, "-cold"))
            except (EngineError, OSError) as error:
                self.cold.errors[name] = str(error)
                say(f"{self.files.name} cold start, {name}: {error}")

    def failed(self, row: Row, name: str, error: EngineError) -> None:
        """Record that an engine cannot run a test. It still runs other tests, and other engines this one."""
        row.errors[name] = str(error)
        say(f"{row.model} {row.test} {name}: {error}")
        if self.runners[name].ended:
            try:
                self.run_engine(name)
            except (EngineError, OSError) as again:
                for other in self.rows:
                    if name in other.tokens_per_s:
                        other.errors.setdefault(name, str(again))

    def measure_quality(self) -> None:
        """Every engine's divergence from the same weights in f32."""
        names = [name for name, runner in self.runners.items() if self.wanted(name, QUALITY) and not runner.ended]
        python: Path = self.options.pyml_python

        def start_reference() -> Runner:
            return Runner(REFERENCE, python, self.files.gguf(), self.options.threads, self.log(REFERENCE))

        quality = Quality(self.options.envs / "quality", self.text_ids, start_reference, say)
        try:
            self.quality = quality.measure(
                {name: self.runners[name] for name in names}, {name: self.homes[name][1] for name in names}
            )
        except (EngineError, OSError, ValueError) as error:
            say(f"{self.files.name}: no quality: {error}")
            self.quality = {name: {"error": str(error)} for name in names}

    def close(self) -> None:
        """End all processes, and delete a file of gigabytes."""
        for runner in self.runners.values():
            runner.close()
        if not self.options.keep:
            self.files.delete_generated()

    def add_to(self, report: dict[str, Any]) -> dict[str, Any]:
        """Return the report with the results of this model so far."""
        own = self.runners.get(PROJECT)
        for row in self.rows:
            row.read_share = read_share(row, own.about.get("weight_bytes") if own else None, self.measured)
        about = {name: runner.about for name, runner in self.runners.items()}
        found = self.quality
        entry = {"model": self.files.name, "engines": about, "left_out": self.left_out, "limits": self.measured}
        return {
            **report,
            "models": [*report["models"], entry],
            "results": [*report["results"], *(row.as_json() for row in self.rows)],
            "cold": [*report["cold"], *([self.cold.as_json()] if self.cold else [])],
            "quality": [*report["quality"], *([{"model": self.files.name, "engines": found}] if found else [])],
        }


def read_share(row: Row, weight_bytes: int | None, limits: list[dict[str, float]]) -> float | None:
    """Return pyml's weight bytes per second in plain decode, as a fraction of a plain read's in the same run."""
    reads = [entry["read_gb_per_s"] for entry in limits if "read_gb_per_s" in entry]
    speeds = row.tokens_per_s.get(PROJECT)
    test = Test.parse(row.test)
    if not (weight_bytes and reads and speeds) or test.prefill or test.depth or test.text or test.batch > 1:
        return None
    sized = shapes.parse(row.model)
    if sized and shapes.SHAPES[sized.shape].experts:  # a step reads some of the experts only
        return None
    return median(speeds) * weight_bytes / (median(reads) * 1e9)


def test_name(text: str) -> str:
    """Check the name of a test, and return it."""
    return text if text in (COLD, QUALITY) else Test.parse(text).name


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "pyml-bench"
    parser.add_argument("--models", nargs="+", default=list(NAMES), metavar="MODEL",
                        help=f"{', '.join(NAMES)} (default: all), {', '.join(shapes.SHAPES)} (@LAYERS: with fewer of "
                             "its layers) or a .gguf file")  # fmt: skip
    parser.add_argument("--tests", nargs="+", type=test_name, metavar="TEST",
                        help="ppP, tgN, and after it @dDEPTH, @bBATCH, @text, @sampled, @nucleus or @penalty; "
                             f"{COLD}, {QUALITY} (default: {' '.join(TESTS)}, {QUALITY} of real weights; "
                             f"{' '.join(LARGE_TESTS)} for {' '.join(LARGE)})")  # fmt: skip
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES), metavar="ENGINE",
                        help=", ".join(ENGINES))  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keep", action="store_true", help="keep the generated files of gigabytes for another run")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="for every engine")
    parser.add_argument("--text", type=Path, default=TEXT, help="text of the tests on text (default: text.txt)")
    parser.add_argument("--pyml-python", type=Path, default=Path(sys.executable), help="interpreter that has pyml")
    parser.add_argument(
        "--wheels", action="store_true", help="install a published wheel where there is one, build none"
    )
    parser.add_argument("--envs", type=Path, default=cache, help="folder of the environments (default: %(default)s)")
    parser.add_argument("--cache", type=Path, help="folder of the models (default: models/ next to the environments)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured to this file")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables to this file too")
    options = parser.parse_args(arguments)
    for name in options.models:
        try:
            Files(name, Path(), Path())
        except ValueError as error:
            parser.error(str(error))
    options.envs = options.envs.resolve()
    options.cache = options.cache or options.envs / "models"
    return options


def command_line(options: argparse.Namespace) -> str:
    """Return the command that repeats the measurement, without local paths."""
    parts = ["python", "benchmarks/compare.py", "--models", *(Files(n, Path(), Path()).name for n in options.models)]
    parts += ["--tests", *options.tests] if options.tests else []
    parts += [] if options.engines == list(ENGINES) else ["--engines", *options.engines]
    return shlex.join([*parts, "--rounds", str(options.rounds), "--threads", str(options.threads)])


def write(options: argparse.Namespace, report: dict[str, Any]) -> None:
    """Save the results so far."""
    if options.markdown:
        options.markdown.write_text(markdown(report))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the comparison; tables go to stdout."""
    options = parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # run cleanup, so that no stopped engine is left behind
    limits = machine.Limits(options.cache, options.threads)
    report: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "command": command_line(options),
        "machine": machine.describe(),
        "threads": options.threads,
        "rounds": options.rounds,
        "text": options.text.name,
        "models": [],
        "results": [],
        "cold": [],
        "quality": [],
        "quality_positions": SCORED * WINDOWS,
    }
    for name in options.models:
        comparison = Comparison(options, name, limits)
        try:
            comparison.start()
            if comparison.wants_quality or any(test.text for test in comparison.tests):
                comparison.feed_text()
            comparison.prepare()
            for number in range(options.rounds):
                comparison.round(number)
                write(options, comparison.add_to(report))
            if comparison.wants_quality:
                comparison.measure_quality()
        finally:
            comparison.close()
        report = comparison.add_to(report)
        report["scaled"] = shapes.scaled(report["results"])
        write(options, report)
    print(markdown(report), end="")


if __name__ == "__main__":
    main()
