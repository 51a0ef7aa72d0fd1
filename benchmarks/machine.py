"""The machine and its current limits, with which speeds are compared."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("limits.c")


def describe() -> dict[str, object]:
    """Return CPU, cores and memory of this machine."""
    cpu = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                cpu = line.split(":", 1)[1].strip()
                break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"cpu": cpu, "cores": len(os.sched_getaffinity(0)), "memory_gib": round(memory / 2**30, 1)}


class Limits:
    """Read bandwidth and rates of int8 and f32 arithmetic, measured by a small C program that is compiled here."""

    def __init__(self, folder: Path, threads: int) -> None:
        self.threads = threads
        self.program: Path | None = None
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if compiler is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        program = folder / "limits"
        command = [compiler, "-O3", "-march=native", "-pthread", str(SOURCE), "-o", str(program)]
        if subprocess.run(command, check=False).returncode == 0:
            self.program = program

    def measure(self) -> dict[str, float]:
        """Return the figures of limits.c (none without a compiler) and the machine's ``load``."""
        figures: dict[str, float] = {"load": round(os.getloadavg()[0], 2)}
        if self.program:
            answer = subprocess.run([self.program, str(self.threads)], check=True, capture_output=True, text=True)
            figures.update(json.loads(answer.stdout))
        return figures
