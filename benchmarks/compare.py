"""Measure pyml side by side with other engines: same model, same threads, in alternation, in one run.

    python benchmarks/compare.py --models gemma3-270m smollm2-135m --tests pp512 tg64 --rounds 5

Each engine runs in a process of its own, in a virtual environment of its own, with the model loaded once; all but the
one being measured are stopped. In each round every engine takes every test, in an order that rotates, and the machine's
limits are measured. Needs the standard library only; see README.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
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
from environments import python_of
from models import NAMES, Files
from peers.protocol import Test

PEERS = Path(__file__).parent / "peers"
PROJECT = "pyml"
ENGINES = (PROJECT, "llama.cpp", "ik_llama.cpp", "openvino", "transformers")
DEFAULT_TESTS = ("pp128", "pp512", "tg64", "tg64@d2048", "pp4096")
RUNNERS: dict[str, tuple[str, ...]] = {
    PROJECT: ("run_pyml.py",),
    "llama.cpp": ("run_llama_cpp.py", "llama_cpp"),
    "ik_llama.cpp": ("run_llama_cpp.py", "ik_llama_cpp"),
    "openvino": ("run_openvino.py",),
    "transformers": ("run_transformers.py",),
}


class EngineError(Exception):
    """An engine could not be set up, or could not run a test."""


class Runner:
    """An engine's process. It is stopped (SIGSTOP) whenever nothing is asked of it.

    Args:
        engine: one of :data:`ENGINES`.
        python: interpreter of its environment.
        model: file or folder that it loads.
        threads: how many threads it computes with.
        log: file for its stderr.
    """

    def __init__(self, engine: str, python: Path, model: Path, threads: int, log: Path) -> None:
        self.engine = engine
        script, *arguments = RUNNERS[engine]
        command = [str(python), str(PEERS / script), *arguments]
        variables = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
        self.log = log.open("w")
        self.process = subprocess.Popen(
            command,
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )
        self.about = self.ask(command="load", model=str(model.resolve()), threads=threads)

    def ask(self, **request: Any) -> dict[str, Any]:
        """The answer to one command."""
        assert self.process.stdin
        assert self.process.stdout
        try:
            self.process.send_signal(signal.SIGCONT)
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise EngineError(f"its process ended (exit code {self.process.wait()}, see {self.log.name})")
        self.process.send_signal(signal.SIGSTOP)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise EngineError(answer["error"])
        return answer

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


@dataclass
class Row:
    """One test on one model: what every engine reached, a figure a round."""

    model: str
    test: str
    tokens_per_s: dict[str, list[float]] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    read_share: float | None = None

    @property
    def best_peer(self) -> str | None:
        """The fastest engine that is not ours, by its median."""
        peers = {name: median(speeds) for name, speeds in self.tokens_per_s.items() if name != PROJECT and speeds}
        return max(peers, key=lambda name: peers[name]) if peers else None

    def ratio(self, peer: str) -> float | None:
        """Median over the rounds of our speed divided by the peer's in the same round."""
        ours, theirs = self.tokens_per_s.get(PROJECT, []), self.tokens_per_s.get(peer, [])
        return median(a / b for a, b in zip(ours, theirs, strict=False)) if ours and theirs else None

    def as_json(self) -> dict[str, Any]:
        """Everything measured, with medians and ratios."""
        best = self.best_peer
        return {
            "model": self.model,
            "test": self.test,
            "best_peer": best,
            "ratio": self.ratio(best) if best else None,
            "read_bandwidth_share": self.read_share,
            "engines": {
                name: {
                    "median": median(speeds) if speeds else None,
                    "tokens_per_s": speeds,
                    "setting": self.settings.get(name),
                    "ratio": None if name == PROJECT else self.ratio(name),
                    "error": self.errors.get(name),
                }
                for name, speeds in self.tokens_per_s.items()
            },
        }


def say(text: str) -> None:
    """Progress, on stderr."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def model_for(engine: str, files: Files) -> Path:
    """What that engine loads."""
    if engine == "openvino":
        return files.openvino()
    return files.hf() if engine == "transformers" else files.gguf()


def start(options: argparse.Namespace, files: Files) -> dict[str, Runner]:
    """The engines that can be had, with the model loaded; what is missing is said and left out."""
    runners: dict[str, Runner] = {}
    for engine in options.engines:
        try:
            own = engine == PROJECT
            python = options.pyml_python if own else python_of(options.envs, engine)
            model = model_for(engine, files)
            log = options.envs / "logs" / f"{engine}-{files.name}.log"
            log.parent.mkdir(parents=True, exist_ok=True)
            runners[engine] = Runner(engine, python, model, options.threads, log)
        except (EngineError, OSError, RuntimeError, subprocess.CalledProcessError) as error:
            say(f"{files.name}: {engine} is left out: {error}")
        else:
            say(f"{files.name}: {engine}: {runners[engine].about['version']}")
    return runners


def feed_text(runners: dict[str, Runner], path: Path) -> None:
    """Give every engine the ids of a text, from the first that can encode it."""
    for runner in runners.values():
        try:
            ids = runner.ask(command="encode", path=str(path.resolve()))["ids"]
        except EngineError:
            continue
        for other in runners.values():
            other.ask(command="feed", ids=ids)
        return
    raise SystemExit("compare.py: no engine here can encode a text")


def compare(options: argparse.Namespace, name: str, limits: machine.Limits, report: dict[str, Any]) -> None:
    """All tests and rounds on one model; results are added to the report."""
    files = Files(name, options.cache, options.envs)
    runners = start(options, files)
    rows = [Row(files.name, test.name, {engine: [] for engine in runners}) for test in options.tests]
    try:
        if options.text:
            feed_text(runners, options.text)
        for row in rows:
            for engine, runner in runners.items():
                try:
                    row.settings[engine] = runner.ask(command="prepare", test=row.test)["setting"]
                except EngineError as error:
                    row.errors[engine] = str(error)
                    say(f"{row.model} {row.test} {engine}: {error}")
        measured: list[dict[str, float]] = []
        order = list(runners)
        for number in range(options.rounds):
            measured.append({"model": files.name, **limits.measure()})  # type: ignore[dict-item]
            say(f"{files.name}: round {number + 1} of {options.rounds}, limits {measured[-1]}")
            for row in rows:
                for engine in order:
                    if engine not in row.errors:
                        measure(row, engine, runners[engine], number)
            order.append(order.pop(0)) if order else None
        own = runners.get(PROJECT)
        weight_bytes = own.about.get("weight_bytes") if own else None
        for row in rows:
            row.read_share = read_share(row, weight_bytes, measured)
    finally:
        for runner in runners.values():
            runner.close()
    about = {engine: runner.about for engine, runner in runners.items()}
    report["models"].append({"model": files.name, "engines": about, "limits": measured})
    report["results"] += [row.as_json() for row in rows]
    report["rows"] += rows


def measure(row: Row, engine: str, runner: Runner, number: int) -> None:
    """One engine, one test, one round."""
    try:
        answer = runner.ask(command="run", test=row.test, seed=number)
    except EngineError as error:
        row.errors[engine] = str(error)
        say(f"{row.model} {row.test} {engine}: {error}")
        return
    row.tokens_per_s[engine].append(answer["tokens"] / answer["seconds"])


def read_share(row: Row, weight_bytes: int | None, limits: list[dict[str, float]]) -> float | None:
    """For plain decode: weight bytes a second of pyml, as a share of what a plain read reached in the same run."""
    reads = [entry["read_gb_per_s"] for entry in limits if "read_gb_per_s" in entry]
    speeds = row.tokens_per_s.get(PROJECT)
    test = Test.parse(row.test)
    if not (weight_bytes and reads and speeds) or test.prefill or test.depth or test.batch > 1:
        return None
    return median(speeds) * weight_bytes / (median(reads) * 1e9)


def markdown(report: dict[str, Any]) -> str:
    """The report as Markdown: a table a model, versions and limits below it."""
    lines = [
        f"{report['machine']['cpu']}, {report['machine']['cores']} cores, {report['threads']} threads, "
        f"{report['rounds']} rounds, {report['date']}. Tokens a second: median (lowest-highest); "
        f"the best peer is bold; the ratio is the median over rounds of {PROJECT} / best peer.",
    ]
    for entry in report["models"]:
        rows = [row for row in report["rows"] if row.model == entry["model"]]
        engines = list(entry["engines"])
        lines += ["", f"### {entry['model']}", ""]
        lines.append("| test | " + " | ".join([*engines, "ratio", "of plain read"]) + " |")
        lines.append("|---|" + "---:|" * (len(engines) + 2))
        for row in rows:
            cells = [cell(row, engine) for engine in engines]
            ratio = row.ratio(row.best_peer) if row.best_peer else None
            cells.append("" if ratio is None else f"{ratio:.2f}x")
            cells.append("" if row.read_share is None else f"{row.read_share:.0%}")
            lines.append(f"| {row.test} | " + " | ".join(cells) + " |")
        lines.append("")
        for engine, about in entry["engines"].items():
            chosen = {row.settings[engine] for row in rows if engine in row.settings} - {"default"}
            used = ", ".join(f"{row.test}: {row.settings[engine]}" for row in rows if engine in row.settings)
            setting = f"; settings {used}" if len(chosen) > 1 else f"; {chosen.pop()}" if chosen else ""
            lines.append(f"- {engine}: {about['version']}; {about['note']}{setting}")
        lines.append(f"- machine, in the same run: {limits_line(entry['limits'])}")
    return "\n".join(lines) + "\n"


def cell(row: Row, engine: str) -> str:
    """One engine's figure in the table."""
    speeds = row.tokens_per_s.get(engine)
    if not speeds:
        return "failed" if engine in row.errors else ""
    digits = 0 if median(speeds) >= 100 else 1
    text = f"{median(speeds):.{digits}f}"
    if engine == row.best_peer:
        text = f"**{text}**"
    return f"{text} ({min(speeds):.{digits}f}-{max(speeds):.{digits}f})"


def limits_line(limits: list[dict[str, float]]) -> str:
    """Median, lowest and highest of each limit."""
    units = {
        "read_gb_per_s": "plain read {} GB/s",
        "int8_gop_per_s": "int8 {} GOP/s",
        "f32_gflop_per_s": "f32 {} GFLOP/s",
        "load": "load average {}",
    }
    parts = []
    for key, text in units.items():
        values = [entry[key] for entry in limits if entry.get(key)]
        if values:
            digits = 1 if max(values) < 100 else 0
            figures = f"{median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"
            parts.append(text.format(figures))
    return ", ".join(parts)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "pyml-bench"
    parser.add_argument("--models", nargs="+", default=["gemma3-270m", "smollm2-135m"], metavar="MODEL",
                        help=f"{', '.join(NAMES)} or a .gguf file")  # fmt: skip
    parser.add_argument("--tests", nargs="+", type=Test.parse, default=[Test.parse(t) for t in DEFAULT_TESTS],
                        metavar="TEST", help="ppP, tgN, tgN@dDEPTH, tgN@bBATCH (default: %(default)s)")  # fmt: skip
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES), metavar="ENGINE",
                        help=", ".join(ENGINES))  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="the same for every engine")
    parser.add_argument("--text", type=Path, help="feed the ids of this text instead of random ids")
    parser.add_argument("--pyml-python", type=Path, default=Path(sys.executable), help="interpreter that has pyml")
    parser.add_argument("--envs", type=Path, default=cache, help="folder of the environments (default: %(default)s)")
    parser.add_argument("--cache", type=Path, help="folder of the models (default: models/ beside the environments)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured to this file")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables to this file too")
    options = parser.parse_args(arguments)
    options.envs = options.envs.resolve()
    options.cache = options.cache or options.envs / "models"
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the comparison; tables go to stdout."""
    options = parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no engine stays behind, stopped
    limits = machine.Limits(options.cache, options.threads)
    report: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "machine": machine.describe(),
        "threads": options.threads,
        "rounds": options.rounds,
        "text": str(options.text) if options.text else None,
        "models": [],
        "results": [],
        "rows": [],
    }
    for name in options.models:
        compare(options, name, limits, report)
        text = markdown(report)
        if options.markdown:
            options.markdown.write_text(text)
        if options.json:
            data = {key: value for key, value in report.items() if key != "rows"}
            options.json.write_text(json.dumps(data, indent=1) + "\n")
    print(text, end="")


if __name__ == "__main__":
    main()
