"""One cold run: a separate process that loads the model and times its first run.

It reads the job as JSON from stdin and prints one JSON object.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pyml_core.errors import PymlError

from .. import load
from .measurements import ColdRun

AGAIN = 3  # runs after the first


def run_cold(model: str, dtype: str, threads: int | None, kind: str, ids: list[int], cache: Path) -> ColdRun:
    """Start a process for a cold ``prefill`` of the ids, which saves its KV cache, or a cold ``decode`` after it.

    Raises:
        PymlError: the process failed; the message is its last line.
    """
    job = {"model": model, "dtype": dtype, "threads": threads, "kind": kind, "ids": ids, "cache": str(cache)}
    command = [sys.executable, "-m", __name__]
    result = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, check=False)
    if result.returncode:
        lines = result.stderr.strip().splitlines() or [f"exit code {result.returncode}"]
        raise PymlError(f"the process of a cold run failed: {lines[-1]}")
    return ColdRun(**json.loads(result.stdout))


def measure(job: dict[str, Any]) -> ColdRun:
    """Load the model and run it in this process."""
    start = time.perf_counter()
    lm = load(job["model"], dtype=job["dtype"], threads=job["threads"])
    load_ms = (time.perf_counter() - start) * 1e3
    loaded = memory_of_process("VmRSS:")
    ids, path = job["ids"], Path(job["cache"])
    if job["kind"] == "decode":
        cache = lm.load_cache(path)

        def run() -> None:
            lm.forward([(cache, ids[-1:], None)])
    else:
        cache = lm.new_cache()

        def run() -> None:
            cache.trim(0)
            lm.forward([(cache, ids, None)])

    before = resource.getrusage(resource.RUSAGE_SELF)
    times = [_timed(run)]
    after = resource.getrusage(resource.RUSAGE_SELF)
    times += [_timed(run) for _ in range(AGAIN)]
    peak = memory_of_process("VmHWM:")
    if job["kind"] == "prefill":
        cache.save(path)
    return ColdRun(
        job["kind"], len(ids), load_ms, times[0], times[1:], after.ru_minflt - before.ru_minflt,
        after.ru_majflt - before.ru_majflt, loaded, peak,
    )  # fmt: skip


def memory_of_process(key: str) -> int:
    """Return a value in bytes from Linux's status of this process (``VmRSS:``, ``VmHWM:``); 0 if it has none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(key)), 0)


def _timed(run: Any) -> float:
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1e3


def main() -> int:
    """Read the job from stdin and print the result."""
    try:
        result = measure(json.load(sys.stdin))
    except PymlError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(asdict(result)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
