"""What jobs promise, measured: the same results whatever happens, little overhead, one copy of weights, flat memory.

    python benchmarks/jobs_gates.py                      # everything, on a tiny random model: some 20 minutes
    python benchmarks/jobs_gates.py digests kills        # some gates
    python benchmarks/jobs_gates.py overhead weights --model gemma-3-270m.gguf --rows 300
    python benchmarks/jobs_gates.py ray --shards 500     # where Ray is installed; in a network of its own
    python benchmarks/jobs_gates.py ray_overhead --model gemma-3-270m.gguf --rows 800 --tokens 64

Each line is a gate: what was found, the limit, and whether it holds. The exit code is 1 if one does not.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import pyml_nlp
import pyml_nlp.jobs
from pyml_nlp.generation.request import Request
from pyml_nlp.jobs import Job
from pyml_nlp.jobs.local import Local
from pyml_nlp.language_model import LanguageModel

PYML = [sys.executable, "-m", "pyml_nlp"]
WORDS = "the cat sat on a mat and saw another dog run over green hills near some old river bank".split()
TOGETHER = 16
PERMISSIONS = (1, 2)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH: without them permissions count for root, too


class Gates:
    """The gates.

    Args:
        folder: for files.
        model: of the jobs.
        rows, tokens: of a job, and the most tokens of a row.
        workers, shards: numbers of workers and rows of a shard, for the gates of digests.
        seed: of what is chosen at random.
    """

    def __init__(
        self,
        folder: Path,
        model: Path,
        rows: int,
        tokens: int,
        workers: Sequence[int] = (1, 2, 4),
        shards: Sequence[int] = (500, 7, 1),
        seed: int = 0,
    ) -> None:
        self._folder = folder
        self._model = model
        self._rows = rows
        self._tokens = tokens
        self._workers = workers
        self._shards = shards
        self._random = random.Random(seed)
        self._number = 0
        self.failed = 0

    def report(self, gate: str, found: str, limit: str, holds: bool) -> None:
        """Print a line."""
        self.failed += not holds
        print(f"{'ok  ' if holds else 'FAIL'} {gate}: {found} ({limit})", flush=True)

    # ---- jobs

    def inputs(self, rows: int) -> Path:
        """A file with so many rows."""
        path = self._folder / f"rows-{rows}.jsonl"
        if not path.exists():
            with path.open("w") as file:
                for row in range(rows):
                    words = " ".join(self._random.choices(WORDS, k=self._random.randint(3, 20)))
                    tokens = 1 + self._random.randrange(self._tokens)
                    file.write(json.dumps({"id": row, "prompt": words, "max_tokens": tokens}) + "\n")
        return path

    def plan(self, rows_per_shard: int, rows: int | None = None, **options: Any) -> Job:
        """A new job."""
        self._number += 1
        source = self.inputs(self._rows if rows is None else rows)
        folder = self._folder / f"job-{self._number}"
        return pyml_nlp.jobs.plan(source, folder, model=self._model, seed=7, rows_per_shard=rows_per_shard, **options)

    def command(self, job: Job, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """``pyml batch run`` as a process."""
        return subprocess.Popen(
            [*PYML, "batch", "run", job.folder, *arguments], stderr=subprocess.PIPE, text=True, **options
        )

    def finished(self, job: Job, *arguments: str, **options: Any) -> tuple[int, str]:
        """Exit code and stderr of a run."""
        with self.command(job, *arguments, **options) as process:
            _, stderr = process.communicate()
        return process.returncode, stderr

    # ---- the gates

    def digests(self) -> None:
        """The same digest from all back ends, numbers of workers and sizes of shards."""
        expected = self._expected()
        for per_shard in self._shards:
            for workers in self._workers:
                job = self.plan(per_shard)
                begin = time.perf_counter()
                list(job.run("local", workers=workers, threads=1))
                seconds = time.perf_counter() - begin
                self._compare(f"local, {workers} workers, shards of {per_shard}", job, expected, seconds)
                job = self.plan(per_shard)
                begin = time.perf_counter()
                for index in range(workers):
                    list(job.run("index", index=index, of=workers, workers=1, threads=1))
                self._compare(f"index of {workers}, shards of {per_shard}", job, expected, time.perf_counter() - begin)

    def ray(self) -> None:
        """The same digest from Ray's workers on this machine."""
        from pyml_nlp import ray_session

        expected = self._expected()
        with ray_session.session("local", cpus=max(self._workers)):
            for per_shard in self._shards:
                for workers in self._workers:
                    job = self.plan(per_shard)
                    begin = time.perf_counter()
                    list(job.run("ray", address="auto", workers=workers, threads=1))
                    seconds = time.perf_counter() - begin
                    self._compare(f"Ray, {workers} workers, shards of {per_shard}", job, expected, seconds)

    def ray_overhead(self, rounds: int = 3) -> None:
        """Seconds a shard of Ray's worker against the local back end's, in turns; the first shard has the load."""
        from pyml_nlp import ray_session

        ratios, seconds = [], []
        for _ in range(rounds):
            direct = self._seconds_a_shard("local")
            with ray_session.session("local", cpus=2):
                ratios.append(self._seconds_a_shard("ray", address="auto") / direct)
            seconds.append(direct)
        found, spread = median(ratios), f"{min(ratios):.3f} to {max(ratios):.3f}"
        shard = f"shards of {median(seconds):.0f} s"
        self.report("Ray's overhead", f"{found:.3f} times local, {spread}, {shard}", "at most 1.05", found <= 1.05)

    def _seconds_a_shard(self, backend: str, **options: Any) -> float:
        """Of a job of four shards, by one worker with two threads."""
        job = self.plan(self._rows // 4)
        ends = [time.perf_counter() for _ in job.run(backend, workers=1, threads=2, **options)]
        return (ends[-1] - ends[0]) / (len(ends) - 1)

    def _expected(self) -> str:
        """The digest of one process."""
        reference = self.plan(500)
        list(reference.run("here"))
        return str(totals(reference)["digest"])

    def _compare(self, name: str, job: Job, expected: str, seconds: float) -> None:
        report = job.verify()
        found = f"digest {report.digest[:12]}, {report.rows} rows, {report.duplicates} duplicates, {seconds:.1f} s"
        self.report(name, found, f"{expected[:12]}, {self._rows}, 0", report.ok and report.digest == expected)

    def kills(self, count: int = 20, every: float = 3.0) -> None:
        """Workers that are killed at random: all rows once, none in quarantine, the same digest."""
        expected, killed, runs, whole, quarantined, left = self._expected(), 0, 0, True, 0, 0
        while killed < count and whole:  # as many jobs as that takes
            job = self.plan(97)
            runs += 1
            with self.command(job, "--workers", "2", "--threads", "1", "-q") as process:
                while process.poll() is None:
                    time.sleep(every)
                    workers = children(process.pid)
                    if killed < count and workers:
                        killed += 1
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(self._random.choice(workers), signal.SIGKILL)
            report = job.verify()
            whole = report.ok and report.digest == expected
            quarantined += report.quarantined
            left += len(list(Path(job.folder, "shards").glob("*.part")))
        kept = f"{quarantined} in quarantine, {left} parts left"
        found = f"{killed} kills every {every:.1f} s in {runs} jobs of {self._rows} rows, {kept}"
        self.report("kills", found, f"all of {self._rows} rows, the same digest", whole and killed == count)

    def interrupts(self) -> None:
        """Ctrl-C and SIGTERM: soon, with one line, and a run goes on."""
        for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 0)):
            job = self.plan(self._rows)
            with self.command(job, "--workers", "2", "--threads", "1", "-q") as process:
                until(partial(grown, job))
                begin = time.perf_counter()
                process.send_signal(number)
                _, stderr = process.communicate()
            seconds, kept = time.perf_counter() - begin, parts(job)
            again, _ = self.finished(job, "-q")
            ok = (process.returncode, again, job.verify().ok) == (code, 0, True) and seconds < 3 and kept > 0
            found = f"{seconds:.2f} s, code {process.returncode}, {stderr.strip()!r}, then code {again}"
            self.report(number.name, found, f"3 s, code {code}", ok)

    def disk(self) -> None:
        """A full disk (a limit on the size of files) and a folder that cannot be written: one line, then it goes on."""
        job = self.plan(self._rows)
        code, stderr = self.finished(job, "-q", "--workers", "1", preexec_fn=limit_files)
        again, _ = self.finished(job, "-q")
        self.report("full disk", f"code {code}, {last(stderr)}", "code 1, one line", code == 1 and one_line(stderr))
        self.report("full disk, then", f"code {again}", "code 0, complete", again == 0 and job.verify().ok)
        job = self.plan(self._rows)
        Path(job.folder).chmod(0o555)
        code, stderr = self.finished(job, "-q", preexec_fn=drop_privileges)
        self.report("read-only", f"code {code}, {last(stderr)}", "code 1, one line", code == 1 and one_line(stderr))

    def identity(self) -> None:
        """Another level, build, model or option: one line, before anything is loaded."""
        level = {**os.environ, "PYML_CPU_LEVEL": "scalar"}
        self._refused("level", self.plan(500), env=level)
        for name in ("build", "model"):
            job = self.plan(500)
            path = Path(job.folder) / "manifest.json"
            text = path.read_text()
            found = json.loads(text)
            changed = found[name] if name == "build" else found["model"]["files"][0]["digest"]
            path.write_text(text.replace(changed, changed[:-1] + ("0" if changed[-1] != "0" else "1")))
            self._refused(name, job)

        folder = self.plan(500).folder
        try:
            pyml_nlp.jobs.plan(self.inputs(self._rows), folder, model=self._model, seed=8, rows_per_shard=500)
        except pyml_nlp.jobs.JobError as error:
            self.report("another option", str(error), "an error of one line", "\n" not in str(error))
        else:
            self.report("another option", "the folder has two plans", "an error", False)

    def _refused(self, name: str, job: Job, **options: Any) -> None:
        begin = time.perf_counter()
        code, stderr = self.finished(job, "-q", **options)
        seconds = time.perf_counter() - begin
        self.report(f"another {name}", f"code {code} in {seconds:.2f} s, {last(stderr)}", "code 1, one line",
                    code == 1 and one_line(stderr) and not Path(job.folder, "workers").exists())  # fmt: skip

    def overhead(self, rounds: int = 5) -> None:
        """The time of the local back end against that of generate_batch, without the load; in turns."""
        ratios = []
        with pyml_nlp.load(self._model) as lm:
            requests = self._requests(lm)
            for _ in range(rounds):
                lm.prefix_cache.clear()
                direct = timed(lambda: list(lm.generate_batch(requests, max_batch_size=TOGETHER, ordered=False)))
                lm.prefix_cache.clear()
                job = Preloaded(self.plan(self._rows).folder, lm)
                backend = Local(1, None, together=TOGETHER)
                begin = time.perf_counter()
                list(job.run(backend))
                ratios.append((time.perf_counter() - begin) / direct)
        found = median(ratios)
        spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
        self.report("overhead", f"{found:.3f} times generate_batch, {spread}", "at most 1.03", found <= 1.03)

    def _requests(self, lm: LanguageModel) -> list[Request]:
        found = []
        for line in self.inputs(self._rows).read_text().splitlines():
            row = json.loads(line)
            options = lm.generation_options.replace(max_tokens=row["max_tokens"], seed=row["id"])
            found.append(Request(lm.tokenizer.encode_prompt(row["prompt"]), options))
        return found

    def weights(self, workers: int = 4) -> None:
        """Memory of forked workers: what they share counts once."""
        job = self.plan(50)
        with self.command(job, "--workers", str(workers), "--threads", "1", "-q") as process:
            until(lambda: grown(job) and len(children(process.pid)) == workers)
            private = [memory(child, "Private_Dirty") for child in children(process.pid)]
            shared = [memory(child, "Pss") for child in children(process.pid)]
            whole, one = memory(process.pid, "Pss") + sum(shared), memory(process.pid, "Rss")
            process.send_signal(signal.SIGINT)
            process.communicate()
        each = f"{max(private) >> 20} MiB private each"
        found = f"{whole >> 20} MiB of {workers} workers, {each}, {one >> 20} MiB of the parent"
        self.report("weights", found, "less than two copies", whole < 2 * one or whole < one + workers * (64 << 20))

    def memory(self, many: int = 1_000_000) -> None:
        """Planning many rows, and the memory of runs of few and of many."""
        source = self.inputs(many)
        begin = time.perf_counter()
        output, model = str(self._folder / "planned"), str(self._model)
        peak, code = peak_of([*PYML, "batch", "plan", str(source), "--output", output, "--model", model])
        seconds = time.perf_counter() - begin
        found = f"{many} rows in {seconds:.1f} s, {peak >> 20} MiB, code {code}"
        self.report("plan", found, "30 s, 200 MiB for a million", seconds < 30 and peak < 200 << 20 and not code)
        peaks = []
        for rows in (many // 100, many):
            job = self.plan(1000, rows)
            peak, code = peak_of([sys.executable, "-c", STUB, "batch", "run", job.folder, "--workers", "2", "-q"])
            peaks.append(peak)
            self.report(f"run of {rows} rows", f"{peak / (1 << 20):.1f} MiB, code {code}", "code 0", not code)
        self.report("flat memory", f"{peaks[1] / peaks[0]:.3f} times", "at most 1.05", peaks[1] <= 1.05 * peaks[0])


STUB = """
import sys
from pyml_nlp.cli.main import run
from pyml_nlp.jobs import shard

class Texts:
    def __init__(self, *_): pass
    def results(self, rows, together, *_):
        for index, row in rows:
            yield index, {"id": row.id, "text": "x", "finish_reason": "stop", "prompt_tokens": 1, "tokens": 1}
    def cancel(self): pass

shard.Texts = Texts
sys.exit(run("pyml", sys.argv[1:]))
"""
"""``pyml`` with a model that needs no time: the memory of a run depends on its rows alone."""


class Preloaded(Job):
    """A job whose model is loaded already."""

    def __init__(self, folder: str, lm: LanguageModel) -> None:
        super().__init__(folder)
        self._lm = lm

    def load(self, threads: int | None = None, progress: object = None) -> Any:
        """The model, which stays open."""
        return contextlib.nullcontext(self._lm)


# ---- processes and files


def totals(job: Job) -> Any:
    """Those that the job has written."""
    return json.loads((Path(job.folder) / "_SUCCESS").read_text())


def timed(call: Callable[[], object]) -> float:
    """Seconds of a call."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def until(condition: Callable[[], bool]) -> None:
    """Wait, for at most two minutes."""
    deadline = time.monotonic() + 120
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit("jobs_gates: a run makes no progress")
        time.sleep(0.01)


def parts(job: Job) -> int:
    """Bytes of unfinished shards."""
    return sum(path.stat().st_size for path in Path(job.folder, "shards").glob("*.part"))


def grown(job: Job) -> bool:
    """Whether some rows have ended."""
    return parts(job) > 2000


def children(process: int) -> list[int]:
    """Numbers of the processes that it has started."""
    try:
        return [int(one) for one in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


def memory(process: int, kind: str) -> int:
    """Bytes of a kind of memory of a process."""
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
        if line.startswith(f"{kind}:"):
            return int(line.split()[1]) << 10
    return 0


def peak_of(command: Sequence[str]) -> tuple[int, int]:
    """The largest memory of any of a command's processes, and its exit code."""
    code = "import resource, subprocess, sys; done = subprocess.call(sys.argv[1:]); " \
           "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, done)"  # fmt: skip
    found = subprocess.run([sys.executable, "-c", code, *command], stdout=subprocess.PIPE, text=True, check=True)
    peak, done = found.stdout.split()[-2:]
    return int(peak) << 10, int(done)


def limit_files() -> None:
    """Files may have 4000 bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))


def drop_privileges() -> None:
    """Permissions of files count for root, too."""
    import ctypes

    for capability in PERMISSIONS:
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


def last(stderr: str) -> str:
    """The last line."""
    return stderr.strip().rpartition("\n")[2][:160]


def one_line(stderr: str) -> bool:
    """Whether there is one line, an error."""
    return stderr.startswith("Error: ") and stderr.count("\n") == 1


@contextlib.contextmanager
def work_folder() -> Iterator[Path]:
    """A folder for files, which is removed."""
    folder = Path(tempfile.mkdtemp(prefix="jobs-gates-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


NAMES = ("digests", "ray", "ray_overhead", "kills", "interrupts", "disk", "identity", "overhead", "weights", "memory")


def main() -> int:
    """Run the gates."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("gates", nargs="*", metavar="GATE", help=f"{', '.join(NAMES)}; none: all but those of Ray")
    parser.add_argument("--model", type=Path, help="a tiny random one without it")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--tokens", type=int, default=12, help="most tokens of a row")
    parser.add_argument("--workers", type=int, nargs="+", default=(1, 2, 4), help="for the gates `digests` and `ray`")
    parser.add_argument("--shards", type=int, nargs="+", default=(500, 7, 1), help="rows, for the same gates")
    parser.add_argument("--many", type=int, default=1_000_000, help="rows for the gate `memory`")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if unknown := set(given.gates) - set(NAMES):
        parser.error(f"unknown gate {unknown.pop()}: expected {', '.join(NAMES)}")
    names = given.gates or [name for name in NAMES if not name.startswith("ray")]
    if any(name.startswith("ray") for name in names):
        from tests.ray.alone import isolate  # Ray listens on all interfaces

        if not isolate():
            parser.error("Ray's gates need a network of its own, which this system does not allow")
    with work_folder() as folder:
        model = given.model
        if model is None:
            from tests.helpers import tiny_files, tiny_models

            model = tiny_files.write_hf(tiny_models.MODELS["llama"], folder / "model")
        gates = Gates(folder, model.resolve(), given.rows, given.tokens, given.workers, given.shards, given.seed)
        for name in names:
            getattr(gates, name)(*([given.many] if name == "memory" else []))
    return 1 if gates.failed else 0


if __name__ == "__main__":
    sys.exit(main())
