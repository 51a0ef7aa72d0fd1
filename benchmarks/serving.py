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
import signal
import sys
import time
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import machine
import serving_loads as loads
from models import NAMES, Files
from serving_empty import empty
from serving_report import markdown
from serving_servers import SERVERS, Direct, Place, Server, ServerError, free_port

CHAT = ("smollm2-135m",)
"""Models that chat; others continue texts."""

PYML = "pyml"
CLIENTS = (1, 4, 8, 16, 32)
MIXED_STREAMS = 7
LONG_TOKENS = 4096
OVERLOAD = (0.5, 2.0)
GOOD_TTFT, GOOD_TOKEN = 1.0, 0.1
LOADS = ("chat", "prefix", "mixed", "overload", "batch", "empty")
WARM_UP = 10**6
"""Seed of what is asked first; those of loads are smaller."""

SOLO = 8
"""Texts a round of each load that are compared with those of a run alone."""

TAIL = 0.4
"""Part of the total time that is not the loads': starts, warm-ups, texts alone, and the ends of answers."""


@dataclass(frozen=True)
class Case:
    """A load and its size: the number of clients, or the factor of the capacity."""

    load: str
    size: float

    def __str__(self) -> str:
        return f"{self.load} {self.size:g}"


def cases(options: argparse.Namespace) -> list[Case]:
    """The loads of a round; the capacity is known before the overload."""
    found = {
        "chat": [Case("chat", clients) for clients in options.clients],
        "prefix": [Case("prefix", 8)],
        "mixed": [Case("mixed", MIXED_STREAMS)],
        "overload": [Case("overload", factor) for factor in OVERLOAD],
        "batch": [Case("batch", 16)],
        "empty": [Case("empty", 1)],
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
        files = Files(name, options.envs / "models", options.envs)
        at = Place(files, options.envs, options.pyml_python, 0, options.places, options.context, options.threads)
        logs = options.envs / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        self.servers: list[Server] = []
        for kind in options.servers:
            try:
                server = Server(kind, replace(at, port=free_port()), logs / f"serving-{kind}-{files.name}.log")
            except ServerError as error:
                self.errors[kind] = str(error)
                print(error, file=sys.stderr)
                continue
            stack.callback(server.close)
            self.servers.append(server)
            warm = self.asking(server)
            asyncio.run(loads.closed(server.port, loads.short_chats(warm, WARM_UP), 2, options.warm_up))
            server.pause()
        self.direct = Direct(at, logs / f"serving-direct-{files.name}.log") if PYML in options.servers else None
        if self.direct is not None:
            stack.callback(self.direct.close)

    def asking(self, server: Server) -> loads.Asking:
        """How a server is asked."""
        return loads.Asking(self.name in CHAT, self.options.temperature, server.model)

    def measure(self, case: Case, turn: int) -> None:
        """A load for every server, in the order of this round."""
        count = len(self.servers)
        for server in [self.servers[(i + turn) % count] for i in range(count)]:
            if case.load in ("batch", "empty") and (server.name != PYML or self.direct is None):
                continue
            if time.monotonic() > self.options.end:
                return
            with server.running():
                if case.load == "empty":
                    assert self.direct is not None
                    found = empty(server.port, self.direct, self.asking(server))
                elif case.load == "batch":
                    found = self._batch(server, int(case.size), turn)
                else:
                    found = self._load(server, case, turn)
            self.results.append(
                {
                    "model": self.name,
                    "server": server.name,
                    "load": case.load,
                    "size": case.size,
                    "round": turn,
                    **found,
                }
            )
            print(f"{self.name} {server.name} {case}: {_brief(found)}", file=sys.stderr, flush=True)

    def _load(self, server: Server, case: Case, turn: int) -> dict[str, Any]:
        load, asking, seed = case.load, self.asking(server), 100 * turn + int(case.size)
        used = server.cpu_seconds()
        found = asyncio.run(self._coroutine(server, load, case.size, asking, seed))
        used = server.cpu_seconds() - used
        if load == "chat":
            self.capacity[server.name] = max(self.capacity.get(server.name, 0), found.requests_per_second)
        figures = figures_of(found, loads.STREAM if load == "mixed" else None)
        tokens = found.tokens_per_event * sum(len(one.times) for one in found.good)
        figures |= {"cpu_per_1000": used / tokens * 1000 if tokens else None, "peak_mib": server.peak_mib()}
        if server.name == PYML and self.direct is not None and load != "overload":
            figures["differing"] = self._differing(found)
        return figures

    def _coroutine(
        self, server: Server, load: str, size: float, asking: loads.Asking, seed: int
    ) -> Coroutine[None, None, loads.Load]:
        port, seconds = server.port, self.options.seconds
        if load == "chat":
            return loads.closed(port, loads.short_chats(asking, seed), int(size), seconds)
        if load == "prefix":
            return loads.closed(port, loads.shared_prefix(asking, seed), int(size), seconds)
        if load == "mixed":
            long = loads.long_prompts(asking, seed, min(LONG_TOKENS, self.options.context - 512))
            return loads.mixed(port, loads.streams(asking, seed), long, int(size), seconds)
        rate = size * max(self.capacity.get(server.name, 1.0), 0.2)
        return loads.offered(port, loads.short_chats(asking, seed), rate, seconds, seed)

    def _differing(self, load: loads.Load) -> int:
        """How many of some texts differ from those of a run alone."""
        assert self.direct is not None
        some = load.whole[:: max(1, len(load.whole) // SOLO)][:SOLO]
        alone = self.direct.ask("batch", [one.question.body for one in some])["texts"]
        return sum(one.text != text for one, text in zip(some, alone, strict=True))

    def _batch(self, server: Server, clients: int, turn: int) -> dict[str, Any]:
        """The same requests through HTTP, all at once, and by ``generate_batch``."""
        assert self.direct is not None
        asking = self.asking(server)
        found: dict[str, Any] = {}
        for part in ("http", "direct") if turn % 2 else ("direct", "http"):
            questions = list(islice(_answers_of_96(asking, turn), 3 * clients))
            if part == "direct":
                answer = self.direct.ask("batch", [one.body for one in questions], clients)
                found["direct"], texts = answer["tokens"] / answer["seconds"], answer["texts"]
            else:
                load = asyncio.run(loads.at_once(server.port, questions, clients))
                found["http"] = sum(one.tokens for one in load.answers) / load.seconds
                got = {one.question.body["seed"]: one.text for one in load.answers}
        found["differing"] = sum(got[one.body["seed"]] != text for one, text in zip(questions, texts, strict=True))
        found["ratio"] = found["http"] / found["direct"]
        return found


def _answers_of_96(asking: loads.Asking, turn: int) -> Iterator[Any]:
    for question in loads.short_chats(asking, 7000 + turn):
        yield question._replace(body={**question.body, "max_tokens": 96})


def figures_of(load: loads.Load, kind: str | None) -> dict[str, Any]:
    """The figures of a load; times in milliseconds, of the requests of one kind if one is given."""
    good = [one for one in load.good if kind in (None, one.question.kind)]
    others = [one for one in load.good if kind not in (None, one.question.kind)]
    return {
        "answers": len(load.whole),
        "errors": sum(one.error is not None for one in load.answers),
        "first_error": next((one.error[:300] for one in load.answers if one.error), None),
        "tokens_per_second": load.tokens_per_second,
        "requests_per_second": load.requests_per_second,
        "goodput": load.goodput(GOOD_TTFT, GOOD_TOKEN),
        "tokens_per_event": load.tokens_per_event,
        "ttft": spread([one.ttft for one in good]),
        "gap": spread([gap for one in good for gap in one.gaps]),
        "other_ttft": spread([one.ttft for one in others]),
        "client_share": load.client_share,
    }


def spread(seconds: list[float]) -> dict[str, float] | None:
    """Median, 95 and 99 of 100, and maximum, in milliseconds; None of nothing."""
    if not seconds:
        return None
    ordered = sorted(seconds)
    at = {f"p{part}": ordered[min(len(ordered) * part // 100, len(ordered) - 1)] * 1e3 for part in (50, 95, 99)}
    return {**at, "max": ordered[-1] * 1e3}


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
    parser.add_argument("--seconds", type=float, default=15.0, help="of each load")
    parser.add_argument("--warm-up", type=float, default=3.0, help="seconds, of each server")
    parser.add_argument("--bounded", type=float, metavar="SECONDS", help="total time; sets --seconds")
    parser.add_argument("--places", type=int, default=16, help="texts at a time")
    parser.add_argument("--context", type=int, default=6144, help="positions of a text")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--temperature", type=float, default=0.8, help="0: greedy, where drafts help")
    parser.add_argument("--envs", type=Path, default=Path("~/.cache/pyml-bench").expanduser())
    parser.add_argument("--pyml-python", type=Path, default=Path(sys.executable))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    options.end = float("inf")
    if options.bounded:
        options.end = time.monotonic() + options.bounded
        shared = [case for case in cases(options) if case.load not in ("batch", "empty")]
        runs = options.rounds * len(options.models) * max(1, len(shared) * len(options.servers))
        options.seconds = options.bounded * (1 - TAIL) / runs
    return options


def main(arguments: list[str] | None = None) -> None:
    """Measure and print Markdown."""
    options = parsed(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the servers are ended, too
    found: dict[str, Any] = {"machine": machine.describe(), "results": [], "errors": {}}
    found |= {name: getattr(options, name) for name in ("places", "context", "threads", "temperature", "seconds")}
    for name in options.models:
        with ExitStack() as stack:
            comparison = Comparison(options, name, stack)
            for turn in range(options.rounds):
                for case in cases(options):
                    comparison.measure(case, turn)
                if options.json:
                    done = {**found, "results": found["results"] + comparison.results}
                    options.json.write_text(json.dumps(done, indent=1))
        found["results"] += comparison.results
        found["errors"] |= {f"{name}, {server}": error for server, error in comparison.errors.items()}
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    print(markdown(found))


if __name__ == "__main__":
    main()
