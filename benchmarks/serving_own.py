"""What is measured of pyml's server alone: against its own engine without HTTP, and against ``pyml-infer``."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import serving_loads as loads
from serving_client import Question
from serving_servers import Direct, Place, Server, free_port

TEXTS = 8
TOKENS = 128
BENCH_RUNS = 3
STARTS = 5


def eight(port: int, direct: Direct, asking: loads.Asking, at: Place, turn: int) -> dict[str, Any]:
    """Tokens/s of eight texts at once: through HTTP, by ``generate_batch``, and by ``pyml-bench -b 8``.

    The first two have the same texts, prompts included. ``pyml-bench`` has texts of its own, whose prompts it does not
    time; it is compared with HTTP from when all texts have begun until the first one ends, and so are the same texts in
    ``generate_batch`` after their prompts.
    """
    questions = [_of_length(one) for one in islice(loads.short_chats(asking, 7000 + turn), TEXTS)]
    bodies = [one.body for one in questions]
    found: dict[str, Any] = {}
    for part in ("http", "direct") if turn % 2 else ("direct", "http"):
        if part == "direct":
            answer = direct.ask("batch", bodies, TEXTS)
            found["direct"], texts = answer["tokens"] / answer["seconds"], answer["texts"]
            decoded = direct.ask("decode", bodies, TEXTS)
            found["direct_decode"] = decoded["tokens"] / decoded["seconds"]
        else:
            load = asyncio.run(loads.at_once(port, questions, TEXTS))
            found["http"] = sum(one.tokens for one in load.answers) / load.seconds
            found["http_decode"] = decode_rate(load)
    found["bench"] = bench(at)
    got = {one.question.body["seed"]: one.text for one in load.answers}
    found["differing"] = sum(got[body["seed"]] != text for body, text in zip(bodies, texts, strict=True))
    found["ratio"] = found["http"] / found["direct"]
    found["ratio_decode"] = found["http_decode"] / found["direct_decode"]
    found["ratio_bench"] = found["http_decode"] / found["bench"]
    return found


def decode_rate(load: loads.Load) -> float:
    """Tokens/s from when all texts have begun until the first one ends."""
    begin, end = max(one.times[0] for one in load.answers), min(one.times[-1] for one in load.answers)
    tokens = 0.0
    for one in load.answers:
        tokens += one.tokens / len(one.times) * sum(begin < time <= end for time in one.times)
    return tokens / (end - begin) if end > begin else float("nan")


def _of_length(question: Question) -> Question:
    return question._replace(body={**question.body, "max_tokens": TOKENS})


def bench(at: Place) -> float:
    """Tokens/s of ``pyml-bench -b 8`` with the rules of the loads."""
    command = [
        str(at.own), "-m", "pyml_nlp.cli.main", "bench", str(at.files.gguf()), "-p", "0", "-n", str(TOKENS), "-b",
        str(TEXTS), "-r", str(BENCH_RUNS), "--threads", str(at.threads), "-o", "json", "--temperature", "0.8",
    ]  # fmt: skip
    for name, value in loads.RULES.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return float(json.loads(done.stdout)[0]["tokens_per_s"])


def cold(at: Place, log: Path) -> dict[str, Any]:
    """Seconds from the start of ``pyml serve`` until it is ready, and of ``pyml-infer`` as a whole, in alternation."""
    ready, inferred = [], []
    for _ in range(STARTS):
        server = Server("pyml", replace(at, port=free_port()), log)
        server.close()
        ready.append(server.ready)
        inferred.append(infer_seconds(at))
    later = median([one - other for one, other in zip(ready, inferred, strict=True)])
    return {"ready": median(ready), "infer": median(inferred), "later": later}


def infer_seconds(at: Place) -> float:
    """Seconds of a process of ``pyml-infer`` that writes one token."""
    options: Sequence[str] = ("--prompt", "The capital of France is", "--max-tokens", "1", "--temperature", "0")
    command = [str(at.own), "-m", "pyml_nlp.cli.main", "infer", str(at.files.gguf()), *options]
    begun = time.monotonic()
    subprocess.run([*command, "--threads", str(at.threads)], check=True, capture_output=True)
    return time.monotonic() - begun
