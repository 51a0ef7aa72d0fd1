"""Compare HTTP servers of language models: one client, the same requests, in alternation, in one run.

    python benchmarks/serving.py --models smollm2-135m gemma3-270m --json serving.json
    python benchmarks/serving.py --servers pyml llama-server --loads chat mixed --clients 8 --bounded 600

Each server runs on loopback, in its own environment, with the model loaded once; all but the measured one are stopped.
In each round every server gets every load, in an order that rotates. See README.md for the loads and figures. Needs
only the standard library, and runs with the interpreter that has pyml.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Coroutine
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import machine
import serving_loads as loads
import serving_own as own
from models import NAMES, Files
from serving_client import ask, read
from serving_empty import empty
from serving_figures import figures_of, mixed_figures
from serving_prefix import warm_prefix
from serving_servers import SERVERS, Direct, Place, Server, ServerError, free_port
from serving_tables import markdown
from serving_trial import choose

CHAT = ("smollm2-135m",)
"""Models that chat; others continue texts."""

PYML = "pyml"
CLIENTS = (8, 1, 4, 16, 32)
MAIN = 8
"""Clients of the chats that are counted longest."""

MIXED_STREAMS = 7
LONG_TOKENS = 4096
OVERLOAD = (0.5, 2.0)
LOADS = ("chat", "warm", "batch", "empty", "cold", "mixed", "prefix", "overload")
OWN = ("batch", "empty", "cold")
"""Loads of pyml alone."""

FIXED = ("warm", *OWN)
"""Loads that end when they have been done."""

WARM_UP = 10**6
"""Seed of what is asked first; those of loads are smaller."""

SOLO = 4
"""Texts a round of each load that are compared with those of a run alone."""

TAIL = 0.4
"""Part of the total time that is not the loads': starts, trials, warm-ups, texts alone, and the ends of answers."""


@dataclass(frozen=True)
class Case:
    """A load and its size: the number of clients, or the factor of the capacity.

    Attributes:
        weight: of its time.
    """

    load: str
    size: float
    weight: float = 1.0

    def __str__(self) -> str:
        return f"{self.load} {self.size:g}"


def cases(options: argparse.Namespace) -> list[Case]:
    """The loads of a round; the capacity is known before the overload."""
    side = options.side
    found = {
        "chat": [Case("chat", clients, 1 if clients == MAIN else side) for clients in options.clients],
        "prefix": [Case("prefix", 8)],
        "mixed": [Case("mixed", MIXED_STREAMS)],
        "overload": [Case("overload", factor) for factor in OVERLOAD],
        "batch": [Case("batch", own.TEXTS)],
        "warm": [Case("warm", 1)],
        "empty": [Case("empty", 1)],
        "cold": [Case("cold", 1)],
    }
    return [case for load in LOADS if load in options.loads for case in found[load]]


class Comparison:
    """The comparison with one model.

    Args:
        options: of the command line.
        name: of the model.
        stack: closes the processes.
    """

    def __init__(self, options: argparse.Namespace, name: str, stack: ExitStack) -> None:
        self.options = options
        self.name = name
        self.results: list[dict[str, Any]] = []
        self.errors: dict[str, str] = {}
        self.capacity: dict[str, float] = {}
        self.settings: dict[str, Any] = {}
        files = Files(name, options.envs / "models", options.envs)
        self.at = Place(files, options.envs, options.pyml_python, 0, options.places, options.context, options.threads)
        self.logs: Path = options.envs / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        self.servers: list[Server] = []
        for kind in options.servers:
            try:
                self._start(kind, stack)
            except (ServerError, RuntimeError) as error:
                self.errors[kind] = str(error)
                print(error, file=sys.stderr, flush=True)
        self.direct: Direct | None = None
        if PYML in options.servers:
            self.direct = Direct(self.at, self._log("direct"))
            stack.callback(self.direct.close)

    def _log(self, kind: str) -> Path:
        return self.logs / f"serving-{kind}-{self.at.files.name}.log"

    def _start(self, kind: str, stack: ExitStack) -> None:
        """Choose the setting of a server, start it, and warm it up."""
        span = loads.Span(self.options.trial, self.options.settle)
        chosen, tried = choose(kind, self.at, self._log(f"{kind}-trial"), self.asking, span)
        server = Server(kind, replace(self.at, port=free_port()), self._log(kind), chosen)
        stack.callback(server.close)
        self.settings[kind] = {"setting": chosen, "tried": tried, "ready": server.ready}
        print(f"{self.name} {kind}: {chosen} {tried}", file=sys.stderr, flush=True)
        self.servers.append(server)
        questions = loads.short_chats(self.asking(server), WARM_UP)
        asyncio.run(loads.closed(server.port, questions, 2, loads.Span(self.options.warm_up)))
        self._drain(server)
        server.pause()

    def asking(self, server: Server) -> loads.Asking:
        """How a server is asked."""
        return loads.Asking(self.name in CHAT, self.options.temperature, server.model)

    def measure(self, case: Case, turn: int) -> None:
        """A load for every server, in the order of this round."""
        count = len(self.servers)
        for server in [self.servers[(i + turn) % count] for i in range(count)]:
            if case.load in OWN and (server.name != PYML or self.direct is None):
                continue
            if time.monotonic() > self.options.end:
                return
            try:
                with server.running():
                    found = self._load(server, case, turn)
                    self._drain(server)
            except (RuntimeError, OSError) as error:
                self.errors[f"{server.name}, {case}"] = str(error)
                print(f"{self.name} {server.name} {case}: {error}", file=sys.stderr, flush=True)
                continue
            about = {"model": self.name, "server": server.name, "load": case.load, "size": case.size, "round": turn}
            self.results.append({**about, "load_average": os.getloadavg()[0], **found})
            print(f"{self.name} {server.name} {case}: {_brief(found)}", file=sys.stderr, flush=True)

    def _drain(self, server: Server) -> None:
        """Wait until the server has no work left: what it still does would belong to its next load."""
        answer = read(asyncio.run(ask(server.port, self.asking(server).question("a", 1, 0), loads.PATIENCE)))
        if answer.error:
            raise RuntimeError(f"does not answer after the load: {answer.error}")

    def _load(self, server: Server, case: Case, turn: int) -> dict[str, Any]:
        load, asking, seed = case.load, self.asking(server), 100 * turn + int(case.size)
        if load == "warm":
            return warm_prefix(server.port, asking, 10_000 + turn)
        if load in OWN:
            assert self.direct is not None
            if load == "empty":
                return empty(server.port, self.direct, asking)
            if load == "batch":
                return own.eight(server.port, self.direct, asking, self.at, turn)
            server.pause()
            found = own.cold(self.at, self._log("cold"))
            server.resume()
            return found
        used = server.cpu_seconds()
        counted = asyncio.run(self._coroutine(server, case, asking, seed))
        used = server.cpu_seconds() - used
        if load == "chat":
            self.capacity[server.name] = max(self.capacity.get(server.name, 0), counted.requests_per_second)
        figures = mixed_figures(counted) if load == "mixed" else figures_of(counted)
        tokens = counted.tokens
        figures |= {"cpu_per_1000": used / tokens * 1000 if tokens else None, "peak_mib": server.peak_mib()}
        if server.name == PYML and self.direct is not None and load != "overload":
            figures["differing"] = self._differing(counted)
        return figures

    def _coroutine(
        self, server: Server, case: Case, asking: loads.Asking, seed: int
    ) -> Coroutine[None, None, loads.Load]:
        port, clients = server.port, int(case.size)
        span = loads.Span(self.options.seconds * case.weight, self.options.settle)
        if case.load == "chat":
            return loads.closed(port, loads.short_chats(asking, seed), clients, span)
        if case.load == "prefix":
            return loads.closed(port, loads.shared_prefix(asking, seed), clients, span)
        if case.load == "mixed":
            long = loads.long_prompts(asking, seed, min(LONG_TOKENS, self.options.context - 512))
            return loads.mixed(port, loads.streams(asking, seed), long, clients, span)
        rate = case.size * max(self.capacity.get(server.name, 1.0), 0.2)
        return loads.offered(port, loads.short_chats(asking, seed), rate, span, seed)

    def _differing(self, load: loads.Load) -> int:
        """How many of some texts differ from those of a run alone."""
        assert self.direct is not None
        some = load.whole[:: max(1, len(load.whole) // SOLO)][:SOLO]
        alone = self.direct.ask("batch", [one.question.body for one in some])["texts"]
        return sum(one.text != text for one, text in zip(some, alone, strict=True))


def _brief(found: dict[str, Any]) -> str:
    if "tokens_per_second" not in found:
        return ", ".join(f"{key} {value:.3g}" for key, value in found.items())
    ttft, gap = found["ttft"] or {}, found["gap"] or {}
    return (
        f"{found['tokens_per_second']:.0f} tokens/s, ttft {ttft.get('p50', 0):.0f} ms, gaps {gap.get('p50', 0):.0f} to "
        f"{gap.get('max', 0):.0f} ms, {found['errors']} errors, client {found['client_share']:.1%}"
        + (f", {found['differing']} texts differ" if "differing" in found else "")
    )


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["smollm2-135m"], help=f"{', '.join(NAMES)}, or GGUF files")
    parser.add_argument("--servers", nargs="+", choices=SERVERS, default=[PYML, "llama-server"])
    parser.add_argument("--loads", nargs="+", choices=LOADS, default=list(LOADS))
    parser.add_argument("--clients", nargs="+", type=int, default=list(CLIENTS), help="of the chats")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each load")
    parser.add_argument("--side", type=float, default=1.0, help=f"part of them for chats of other than {MAIN} clients")
    parser.add_argument("--settle", type=float, default=8.0, help="most seconds until a load is counted")
    parser.add_argument("--trial", type=float, default=6.0, help="seconds, of each setting; 0: the first ones")
    parser.add_argument("--warm-up", type=float, default=3.0, help="seconds, of each server")
    parser.add_argument("--bounded", type=float, metavar="SECONDS", help="total time; lowers --seconds")
    parser.add_argument("--places", type=int, default=16, help="texts at a time")
    parser.add_argument("--context", type=int, default=6144, help="positions of a text")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--temperature", type=float, default=0.8, help="0: greedy, where drafts help")
    parser.add_argument("--envs", type=Path, default=Path("~/.cache/pyml-bench").expanduser())
    parser.add_argument("--pyml-python", type=Path, default=Path(sys.executable))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    options.envs, options.pyml_python = options.envs.absolute(), options.pyml_python.absolute()
    options.end = float("inf")
    if options.bounded:
        options.end = time.monotonic() + options.bounded
        weights = sum(case.weight for case in cases(options) if case.load not in FIXED)
        runs = options.rounds * len(options.models) * max(1.0, weights * len(options.servers))
        options.seconds = min(options.seconds, options.bounded * (1 - TAIL) / runs)
    return options


NAMED = ("places", "context", "threads", "temperature", "seconds", "side", "settle", "rounds", "servers", "loads")
"""Options that are in the file of results."""


def main(arguments: list[str] | None = None) -> None:
    """Measure and print Markdown."""
    options = parsed(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the servers are ended, too
    found: dict[str, Any] = {
        "machine": machine.describe(),
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "command": " ".join(["python", "benchmarks/serving.py", *(sys.argv[1:] if arguments is None else arguments)]),
        "notes": {name: kind.note for name, kind in SERVERS.items() if name in options.servers},
        **{name: getattr(options, name) for name in NAMED},
        "cases": [[case.load, case.size] for case in cases(options)],
        "models": {},
        "results": [],
        "errors": {},
    }
    begun = time.monotonic()
    for name in options.models:
        with ExitStack() as stack:
            comparison = Comparison(options, name, stack)
            limits = machine.Limits(options.envs / "models", options.threads)
            about: dict[str, Any] = {"settings": comparison.settings, "limits": []}
            about |= comparison.direct.ask("about", []) if comparison.direct else {}
            found["models"][name] = about
            for turn in range(options.rounds):
                about["limits"].append(limits.measure())
                for case in cases(options):
                    comparison.measure(case, turn)
                    _write(options.json, found, comparison, begun)
        found = _joined(found, comparison, begun)
    _write(options.json, found, None, begun)
    print(markdown(found))


def _joined(found: dict[str, Any], comparison: Comparison, begun: float) -> dict[str, Any]:
    errors = {f"{comparison.name}, {name}": error for name, error in comparison.errors.items()}
    results = found["results"] + comparison.results
    return {
        **found, "results": results, "errors": found["errors"] | errors, "total_seconds": time.monotonic() - begun
    }  # fmt: skip


def _write(file: Path | None, found: dict[str, Any], comparison: Comparison | None, begun: float) -> None:
    if file:
        file.write_text(json.dumps(_joined(found, comparison, begun) if comparison else found, indent=1))


if __name__ == "__main__":
    main()
