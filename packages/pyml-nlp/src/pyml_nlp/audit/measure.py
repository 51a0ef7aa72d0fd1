"""Execution of an audit's plan.

Cold and warm runs are separate by construction: a cold run is the first run of a new process (``cold``), a warm run
follows similar runs in this process.
"""

from __future__ import annotations

import datetime
import os
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import pyml_core
from pyml_core.kv_layout import PAGE_TOKENS
from pyml_core.limits import READ_BYTES, Limits, measure_limits
from pyml_core.tensor import PackedMatrix
from pyml_core.want import Top
from pyml_nn.memory import available_memory

from .. import ModelInfo, load
from . import cold
from .choices import measure_choices
from .measurements import AuditedModel, ColdRun, Machine, Measurements, Step
from .plan import UNTIMED_FIRST, Plan, Stage
from .sweep import heatmap_of, spans, sweep_point, wall_ms

if TYPE_CHECKING:
    from pyml_nn import Event

    from .. import LanguageModel

TEXT = (
    "When the rain had stopped, they walked down to the harbour. Three boats lay at the pier, and a man in a blue coat "
    "was counting boxes. He wrote every number into a small book, then looked up and asked where they came from. From "
    "the north, she said; the train had been late, and nobody at the station could tell when the next one would go. "
    "He laughed. Here, he said, nothing leaves before noon, except the fish."
)
LOOPS = 5000  # iterations of the loop that shows the speed of a core
SEED = 42  # of the random token ids, equal in all audits
Progress = Callable[[str, float, float], None]
"""Called with the next stage, the estimated seconds of finished work and of all work; zeros if not yet known."""


def measure(
    info: ModelInfo, dtype: str, threads: int | None, make_plan: Callable[[int, int], Plan], progress: Progress
) -> Measurements:
    """Run the whole audit.

    Args:
        info: the model.
        dtype, threads: see :func:`pyml_nlp.load`.
        make_plan: returns the plan for the model's context length and number of layers.
        progress: called before each stage.

    Raises:
        PymlError: an error of loading, a plan that does not fit the model, or a cold process that failed.
    """
    begin = time.perf_counter()
    plan = make_plan(info.context_length, info.n_layers)
    ids = _ids(info.vocab_size, max(*plan.prompt_lengths, plan.reference + plan.jitter_steps) + plan.decode_steps + 1)
    model = str(info.path)

    def limits() -> Limits:
        return measure_limits(threads, max(1 << 24, min(READ_BYTES, available_memory() // 4)))

    load_average = [os.getloadavg()[0]]
    progress("measuring the machine", 0, 0)
    start = time.perf_counter()
    measured = [limits()]
    limits_s = time.perf_counter() - start
    with tempfile.TemporaryDirectory(prefix="pyml-audit-") as folder:
        cache = Path(folder, "cache.safetensors")
        prompt = ids[: plan.reference]

        def cold_pair() -> list[ColdRun]:
            return [cold.run_cold(model, dtype, threads, kind, prompt, cache) for kind in ("prefill", "decode")]

        progress("first cold prefill and decode", 0, 0)
        start = time.perf_counter()
        runs = cold_pair()
        token_s, step_s = min(runs[0].again_ms) / 1e3 / plan.reference, min(runs[1].again_ms) / 1e3
        stages = plan.stages(limits_s, time.perf_counter() - start, runs[0].load_ms / 1e3, token_s, step_s)
        announce = _announcer(stages, progress)
        lengths = ", ".join(map(str, plan.prompt_lengths))
        left = _duration(sum(stage.seconds for stage in stages))
        progress(f"this will take about {left}: prompts of {lengths} tokens", 0, 0)
        for _ in range(1, plan.cold_runs):
            announce()
            runs += cold_pair()
    announce()
    with load(model, dtype=dtype, threads=threads) as lm:
        audited = _audited_model(lm, info, dtype)
        layers = list(plan.layers or range(audited.n_layers))
        announce()
        warm = _warm_prefills(lm, prompt, plan.repetitions)
        steps, stolen = _steps(lm, ids, plan)
        full, screened = _screened_steps(lm, plan)
        sweep, layer_heatmap, timeline = [], {}, []
        for length in plan.prompt_lengths:
            announce()
            prefills, decodes = _sweep(lm, ids, length, plan)
            sweep.append(sweep_point("prefill", length, prefills, lm.model.program, layers))
            sweep.append(sweep_point("decode", length, decodes, lm.model.program, layers))
            if length == plan.reference:
                layer_heatmap = {
                    "prefill": heatmap_of(prefills, audited.n_layers),
                    "decode": heatmap_of(decodes, audited.n_layers),
                }
                timeline = spans(sorted(decodes, key=wall_ms)[len(decodes) // 2])
        announce()
        choices = measure_choices(lm, model, dtype, threads, ids, plan.reference, plan.repetitions)
        used_threads, level = lm.model.program.threads, lm.model.program.level
    load_average.append(os.getloadavg()[0])
    announce()
    measured.append(limits())
    cpu = pyml_core.cpu_info()
    return Measurements(
        version=pyml_core.__version__,
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        machine=Machine(
            cpu=cpu["model"],
            cores=cpu["threads"],
            memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            limits=measured,
            load=load_average,
            suspended_ms=_suspended_ms(),
        ),
        model=audited,
        threads=used_threads,
        level=level,
        layers=layers,
        reference=plan.reference,
        seconds=time.perf_counter() - begin,
        cold=runs,
        warm_prefill_ms=warm,
        steps=steps,
        stolen_ms=stolen,
        full_ms=full,
        screened_ms=screened,
        sweep=sweep,
        layer_heatmap=layer_heatmap,
        timeline=timeline,
        choices=choices,
    )


def _announcer(stages: Sequence[Stage], progress: Progress) -> Callable[[], None]:
    """Return a function that announces the next stage at each call."""
    total = sum(stage.seconds for stage in stages)
    left = iter(stages)
    done = 0.0

    def announce() -> None:
        nonlocal done
        stage = next(left)
        progress(stage.text, done, total)
        done += stage.seconds

    return announce


# ---- runs


def _ids(vocabulary: int, count: int) -> list[int]:
    return np.random.default_rng(SEED).integers(0, vocabulary, count).tolist()  # type: ignore[no-any-return]


def _warm_prefills(lm: LanguageModel, prompt: list[int], repetitions: int) -> list[float]:
    """Return the milliseconds of prefills, after two that are not timed."""
    cache = lm.new_cache()
    times = []
    for _ in range(repetitions + 2):
        cache.trim(0)
        start = time.perf_counter()
        lm.forward([(cache, prompt, None)])
        times.append((time.perf_counter() - start) * 1e3)
    return times[2:]


def _steps(lm: LanguageModel, ids: list[int], plan: Plan) -> tuple[list[Step], float]:
    """Run consecutive decode steps after the reference prompt and a warm-up. Returns them and the stolen time."""
    cache = lm.new_cache()
    lm.forward([(cache, ids[: plan.reference], None)])
    for _ in range(3):
        lm.forward([(cache, ids[-1:], None)])
        cache.trim(plan.reference)
    steps = []
    stolen = _stolen_ms()
    for position in range(plan.reference, plan.reference + plan.jitter_steps):
        pages = len(cache.pages)
        before = resource.getrusage(resource.RUSAGE_SELF)
        start = time.perf_counter()
        lm.forward([(cache, ids[position : position + 1], None)])
        ms = (time.perf_counter() - start) * 1e3
        after = resource.getrusage(resource.RUSAGE_SELF)
        loop_us = _loop_us()
        steps.append(
            Step(
                ms,
                after.ru_minflt - before.ru_minflt,
                after.ru_majflt - before.ru_majflt,
                after.ru_nvcsw - before.ru_nvcsw,
                after.ru_nivcsw - before.ru_nivcsw,
                _clock_mhz(),
                loop_us,
                len(cache.pages) > pages,
            )
        )
    return steps, _stolen_ms() - stolen


def _screened_steps(lm: LanguageModel, plan: Plan) -> tuple[list[float], list[float]]:
    """Time decode steps in a text, with all logits and with the largest only. Screening depends on the text."""
    if not lm.model.screened:
        return [], []
    text = lm.tokenizer.encode(TEXT)
    length = plan.reference + plan.text_steps + 1
    ids = (text * (length // len(text) + 1))[:length]
    cache = lm.new_cache()
    lm.forward([(cache, ids[: plan.reference], None)])
    times: tuple[list[float], list[float]] = ([], [])
    for position in range(plan.reference, length):
        for which in (0, 1) if position % 2 else (1, 0):
            cache.trim(position)
            request = [(cache, ids[position : position + 1], None)]
            start = time.perf_counter()
            if which == 0:
                lm.forward(request)
            else:
                lm.forward(request, Top(1))
            times[which].append((time.perf_counter() - start) * 1e3)
    return times[0][1:], times[1][1:]  # the first step of each warms up


def _sweep(lm: LanguageModel, ids: list[int], length: int, plan: Plan) -> tuple[list[list[Event]], list[list[Event]]]:
    """Trace prefills of a length and decode steps after the last one. Returns the events of each run."""
    cache = lm.new_cache()
    if length <= UNTIMED_FIRST:
        lm.forward([(cache, ids[:length], None)])
    prefills = []
    for _ in range(plan.repetitions_of(length)):
        cache.trim(0)
        prefills.append(_traced(lm, cache, ids[:length]))
    decodes = [_traced(lm, cache, ids[length + step : length + step + 1]) for step in range(plan.decode_steps + 1)]
    return prefills, decodes[1:]


def _traced(lm: LanguageModel, cache: Any, ids: list[int]) -> list[Event]:
    with lm.trace() as trace:
        lm.forward([(cache, ids, None)])
    return trace.events


# ---- facts


def _audited_model(lm: LanguageModel, info: ModelInfo, dtype: str) -> AuditedModel:
    program, layout = lm.model.program, lm.kv_layout
    matrices: dict[int, PackedMatrix] = {}
    for operation in program.operations:
        for value in operation.params.values():
            for item in value if isinstance(value, tuple) else (value,):
                if isinstance(item, PackedMatrix):
                    matrices[id(item)] = item
    types: dict[str, int] = {}
    for matrix in matrices.values():
        types[matrix.dtype] = types.get(matrix.dtype, 0) + matrix.nbytes
    windows = [operation.params["window"] for operation in program.operations if operation.kind == "attention"]
    name = Path(info.name).name if Path(info.name).exists() else info.name
    return AuditedModel(
        name=name,
        dtype=dtype,
        n_params=lm.model.n_params,
        n_layers=len(windows),
        context=lm.context_length,
        types=types,
        windows=windows,
        weight_bytes=lm.model.weight_bytes,
        kv_type=layout.dtype,
        kv_token_bytes=layout.page_bytes // PAGE_TOKENS,
        kv_page_tokens=PAGE_TOKENS,
        prefill_chunk=lm.prefill_chunk,
    )


def _clock_mhz() -> float:
    """Return the clock of the first core if Linux reports it (rarely in virtual machines), else 0."""
    try:
        return int(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq").read_text()) / 1e3
    except (OSError, ValueError):
        return 0.0


def _loop_us() -> float:
    """Time a fixed loop that stays in the first-level cache, in µs: about 50, more on a slower core."""
    start = time.perf_counter_ns()
    for _ in repeat(None, LOOPS):
        pass
    return (time.perf_counter_ns() - start) / 1e3


def _stolen_ms() -> float:
    """Return the processor time that the hypervisor gave to other guests since boot (``steal`` in /proc/stat)."""
    try:
        words = Path("/proc/stat").read_text().split("\n", 1)[0].split()
        return int(words[8]) * 1e3 / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0


def _suspended_ms() -> float:
    """Return the time in each second for which Linux suspends this process due to a real-time priority (sched(7))."""
    if not hasattr(os, "sched_getscheduler") or os.sched_getscheduler(0) not in (os.SCHED_FIFO, os.SCHED_RR):
        return 0.0
    try:
        period, runtime = (
            int(Path(f"/proc/sys/kernel/sched_rt_{name}_us").read_text()) for name in ("period", "runtime")
        )
    except (OSError, ValueError):
        return 0.0
    return 1e3 * (period - runtime) / period if 0 <= runtime < period else 0.0


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
