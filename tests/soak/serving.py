"""A server under a mixture of requests, faults and clients that leave, for as long as wanted.

    python -m tests.soak.serving --seconds 600
    python -m tests.soak.serving --requests 50000 --model FILE.gguf

Most requests are compared with the texts of a run alone. Some are malformed, some are cut at random. It fails if a text
differs, if there is an internal error, if memory, files or threads grow, or if the server does not end in order.
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
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

from tests.helpers import tiny_files, tiny_models
from tests.server.hostile import hostile
from tests.soak.client import ask, leave

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }};{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}{{ tools }}"
)
TEXTS = 40
"""Different texts that are compared."""

SAMPLE_SECONDS = 2.0
MAX_DRIFT = 0.05
WARM_SECONDS = 300.0
"""A shorter run does not tell whether memory grows: caches fill, and threads keep memory for later."""

SLOW = 5.0
"""Seconds in which the health must be told, on a machine with other work."""


@dataclass
class Sample:
    """What the server's process holds.

    Attributes:
        kib: memory, without the pages of kept prefixes, which have a limit of their own.
        files, threads: their numbers.
    """

    kib: int
    files: int
    threads: int


@dataclass
class Soak:
    """A run.

    Attributes:
        port: of the server.
        pid: of the server.
        end: when no further requests are sent, as :func:`time.monotonic` counts.
        most: most requests.
        seed: of what is asked.
        counts: requests by kind, and answers by status.
        faults: what went wrong.
        samples: of the server's process.
        slowest: seconds of the slowest /health.
    """

    port: int
    pid: int
    end: float
    most: int
    seed: int
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    slowest: float = 0.0
    sent: int = 0

    async def run(self, clients: int) -> None:
        """All of it."""
        questions = [_question(number) for number in range(TEXTS)]
        alone = [(await ask(self.port, path, body)).text for path, body in questions]
        watching = asyncio.ensure_future(self._watch())
        await asyncio.gather(*(self._client(number, questions, alone) for number in range(clients)))
        watching.cancel()
        await asyncio.sleep(1)
        self.samples.append(await self._sample())
        again = [(await ask(self.port, path, body)).text for path, body in questions]
        if again != alone:
            self.faults.append("texts differ at the end")

    async def _client(self, number: int, questions: list[tuple[str, bytes]], alone: list[str]) -> None:
        rng = random.Random(self.seed * 1000 + number)
        while time.monotonic() < self.end and self.sent < self.most and len(self.faults) < 20:
            self.sent += 1
            kind = rng.random()
            index = rng.randrange(TEXTS)
            path, body = questions[index]
            try:
                if kind < 0.2:
                    self.counts["cut"] += 1
                    await leave(self.port, path, body, rng)
                elif kind < 0.3:
                    await self._hostile(rng)
                else:
                    self.counts["compared"] += 1
                    await self._compare(path, body, alone[index])
            except (OSError, ValueError) as error:
                if kind >= 0.2:
                    self.faults.append(f"{type(error).__name__}: {error}, of {path} {body[:200]!r}")

    async def _compare(self, path: str, body: bytes, expected: str) -> None:
        response = await ask(self.port, path, body)
        self.counts[f"status {response.status}"] += 1
        if response.status == 503 and b"queue_full" in response.body:
            return
        if response.status != 200:
            self.faults.append(f"status {response.status} {response.body[:300]!r} of {body[:200]!r}")
        elif response.text != expected:
            self.faults.append(f"another text of {body[:200]!r}: {response.text!r}, expected {expected!r}")

    async def _hostile(self, rng: random.Random) -> None:
        sent = hostile(rng)
        self.counts["malformed"] += 1
        response = await ask(self.port, sent.path, sent.body)
        self.counts[f"status {response.status}"] += 1
        asked_for = (
            (response.status == 504 and b"timeout" in sent.body)
            or response.status == 501
            or (response.status == 503 and b"queue_full" in response.body)
        )
        if (response.status >= 500 and not asked_for) or not response.status:
            self.faults.append(f"status {response.status} {response.body[:300]!r} of {sent.path} {sent.body[:1000]!r}")

    async def _watch(self) -> None:
        """Take samples, and ask for the health."""
        while True:
            start = time.monotonic()
            if (await ask(self.port, "/health")).status != 200:
                self.faults.append("the health is bad")
            self.slowest = max(self.slowest, time.monotonic() - start)
            self.samples.append(await self._sample())
            await asyncio.sleep(SAMPLE_SECONDS)

    async def _sample(self) -> Sample:
        metrics = (await ask(self.port, "/metrics")).body.decode()
        kept = float(metrics.partition('pyml_kv_bytes{state="prefix"} ')[2].split("\n", 1)[0])
        process = Path("/proc", str(self.pid))
        lines = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        kib = sum(int(lines.get(name, "0 kB").split()[0]) for name in ("RssAnon", "VmSwap"))
        return Sample(kib - int(kept) // 1024, len(list((process / "fd").iterdir())), int(lines["Threads"]))

    def judge(self, memory: bool) -> None:
        """Compare the samples after the first third with the last ones; ``memory``: its growth is a fault."""
        count = len(self.samples)
        if count < 20:
            return
        early, late = self.samples[count // 3 : count * 3 // 5], self.samples[-count // 5 :]
        drift = mean(one.kib for one in late) / mean(one.kib for one in early) - 1
        print(f"memory {mean(one.kib for one in early) / 1024:.1f} -> {mean(one.kib for one in late) / 1024:.1f} MiB")
        if memory and drift > MAX_DRIFT:
            self.faults.append(f"memory has grown by {drift:.1%}")
        last = self.samples[-1]
        for name in ("files", "threads"):
            before = max(getattr(one, name) for one in early)
            if getattr(last, name) > before:
                self.faults.append(f"{getattr(last, name)} {name} are left, of {before}")
        if self.slowest > SLOW:
            self.faults.append(f"/health took {self.slowest:.1f} s")


def _question(number: int) -> tuple[str, bytes]:
    """A request; streams and chats among them, some greedy, some with several choices."""
    rng = random.Random(number)
    words = [rng.choice(["the", "cat", "sat", "on", "a", "mat", "42", "dog"]) for _ in range(rng.randrange(2, 30))]
    body = {
        "max_tokens": rng.randrange(1, 60), "temperature": rng.choice([0, 0.8]), "seed": number,
        "n": rng.choice([1, 1, 1, 2]),
    }  # fmt: skip
    if body["n"] == 1 and rng.random() < 0.5:  # chunks of several choices come in any order
        body["stream"] = True
    if rng.random() < 0.5:
        messages = [{"role": "user", "content": " ".join(words)}]
        return "/v1/chat/completions", json.dumps({**body, "messages": messages}).encode()
    return "/v1/completions", json.dumps({**body, "prompt": " ".join(words)}).encode()


def tiny(folder: Path) -> Path:
    """A tiny model that chats."""
    made = tiny_files.write_hf(tiny_models.MODELS["llama"], folder / "tiny")
    (made / "chat_template.jinja").write_text(TEMPLATE)
    return made


def main(arguments: list[str] | None = None) -> int:
    """Run, print what happened, and return 1 if there were faults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--requests", type=int, default=10**9, help="most requests")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--model", help="a model; by default a tiny one with random weights")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or str(tiny(Path(folder)))
        log = Path(folder) / "log"
        command = [
            sys.executable,
            "-m",
            "pyml_nlp",
            "serve",
            model,
            "--port",
            "0",
            "--threads",
            "1",
            "--max-output",
            "32",
        ]
        with log.open("w") as out:
            process = subprocess.Popen([*command, "--max-output", "32", "--timeout", "60"], stdout=out, stderr=out)
        try:
            port = port_of(process, log)
            soak = Soak(port, process.pid, time.monotonic() + options.seconds, options.requests, options.seed)
            asyncio.run(soak.run(options.clients))
            soak.judge(memory=options.seconds >= WARM_SECONDS)
            process.send_signal(signal.SIGTERM)
            code = process.wait(60)
            if code:
                soak.faults.append(f"the server has ended with code {code}")
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        said = log.read_text(errors="replace")
    for wrong in ("Traceback", "internal error"):
        if wrong in said:
            soak.faults.append(f"the server's log: {said[max(0, said.index(wrong) - 500) :][:4000]}")
            break
    print(", ".join(f"{name} {count}" for name, count in sorted(soak.counts.items())))
    print(f"slowest /health {soak.slowest * 1e3:.0f} ms; last sample {soak.samples[-1]}")
    for fault in soak.faults:
        print("FAULT", fault)
    return int(bool(soak.faults))


def port_of(process: subprocess.Popen[bytes], log: Path) -> int:
    """The port that the server tells, when it is ready."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        _, found, rest = log.read_text().partition("http://127.0.0.1:")
        if found and rest.split()[:1]:
            return int("".join(character for character in rest.split()[0] if character.isdigit()))
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise RuntimeError(f"the server did not start: {log.read_text()[-1000:]}")


if __name__ == "__main__":
    raise SystemExit(main())
