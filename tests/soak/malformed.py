"""Malformed requests against a running server, as many as wanted:

    python -m tests.soak.malformed --requests 10000

Bodies are changed versions of valid ones, for every route that reads one; each is sent on a connection of its own. It
fails if one is not answered, if an answer is a status of 500 or more that was not asked for or an error in a form other
than its API's, if a text differs afterwards, or if the log has a traceback.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.server.hostile import Hostile, hostile
from tests.soak.client import Response, ask
from tests.soak.serving import port_of, tiny

WATCH = ("/v1/completions", json.dumps({"prompt": "the cat", "max_tokens": 8, "seed": 3}).encode())
"""A request whose text must always be the same."""


@dataclass
class Malformed:
    """A run.

    Attributes:
        port: of the server.
        requests: the number of requests.
        seed: of what is sent.
        statuses: answers by status.
        faults: what went wrong.
    """

    port: int
    requests: int
    seed: int
    statuses: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    async def run(self, clients: int) -> None:
        """All of it."""
        before = (await ask(self.port, *WATCH)).text
        numbers = iter(range(self.requests))
        await asyncio.gather(*(self._client(numbers) for _ in range(clients)))
        if (await ask(self.port, *WATCH)).text != before:
            self.faults.append("a text differs at the end")

    async def _client(self, numbers: Iterator[int]) -> None:
        for number in numbers:
            sent = hostile(random.Random(f"{self.seed} {number}"))
            try:
                response = await ask(self.port, sent.path, sent.body)
            except (OSError, ValueError) as error:
                self.faults.append(f"{type(error).__name__}: {error}, of {sent.path} {sent.body[:1000]!r}")
                continue
            self.statuses[response.status] += 1
            wrong = unhandled(sent, response)
            if wrong:
                self.faults.append(f"{wrong}: {response.body[:300]!r} of {sent.path} {sent.body[:1000]!r}")


def unhandled(sent: Hostile, response: Response) -> str:
    """What is wrong with an answer; empty: nothing."""
    status = response.status
    if not status:
        return "no answer"
    asked_for = status == 501 or (status == 504 and b"timeout" in sent.body)
    asked_for = asked_for or (status == 503 and b"queue_full" in response.body)
    if status >= 500 and not asked_for:
        return f"status {status}"
    if status < 400:
        return ""
    try:
        error = json.loads(response.body)["error"]
        message = error if sent.path.startswith("/api/") else error["message"]
    except (ValueError, KeyError, TypeError):
        return "not an error of the API"
    fine = isinstance(message, str) and 0 < len(message) < 1000 and message.isprintable()
    return "" if fine else "not a readable message"


def main(arguments: list[str] | None = None) -> int:
    """Run, print what happened, and return 1 if there were faults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        command = [sys.executable, "-m", "pyml_nlp", "serve", str(tiny(Path(folder))), "--port", "0", "--threads", "1"]
        limits = ["--max-output", "8", "--context-len", "256", "--timeout", "60"]
        with log.open("w") as out:
            process = subprocess.Popen([*command, *limits], stdout=out, stderr=out)
        try:
            run = Malformed(port_of(process, log), options.requests, options.seed)
            start = time.monotonic()
            asyncio.run(run.run(options.clients))
            seconds = time.monotonic() - start
            process.send_signal(signal.SIGTERM)
            code = process.wait(60)
            if code:
                run.faults.append(f"the server has ended with code {code}")
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        said = log.read_text(errors="replace")
    if "Traceback" in said:
        run.faults.append(f"the server's log: {said[max(0, said.index('Traceback') - 500) :][:4000]}")
    answers = ", ".join(f"{count} with {status}" for status, count in sorted(run.statuses.items()))
    print(f"{options.requests} malformed requests in {seconds:.0f} s: {answers}; {len(run.faults)} unhandled")
    for fault in run.faults[:20]:
        print("FAULT", fault)
    return int(bool(run.faults))


if __name__ == "__main__":
    raise SystemExit(main())
