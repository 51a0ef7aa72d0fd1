"""Do what the plan says, on the machine as it is.

Cold and warm are apart by construction: a cold run is the first run of a new process (``cold``), a warm one comes after
runs of the same kind in this process.
"""

from __future__ import annotations

import datetime
import os
import re
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import pyml_core
from pyml_core.limits import READ_BYTES, Limits, measure_limits
from pyml_core.tensor import PackedMatrix
from pyml_nn.memory import available_memory
from pyml_nn.trace_files import level_of

from .. import loading
from . import cold
from .measurements import (
    EMBEDDING,
    FEED_FORWARD,
    GROUPS,
    HEAD,
    LINEAR,
    PARTS,
    SQUARE,
    ColdRun,
    Machine,
    Measurements,
    ModelFacts,
    OperationSum,
    Point,
    Span,
    Step,
)
from .plan import UNTIMED_FIRST, Plan, Stage

if TYPE_CHECKING:
    from pyml_core.program import Program
    from pyml_nn.trace import Event

    from ..language_model import LanguageModel
    from ..source import Source

LOOPS = 5000  # of the loop that shows the pace of a core
SEED = 42  # of the random token ids, the same in every audit
Tell = Callable[[str, float, float], None]
"""Called with what comes next, the seconds of work that are done, and those of all; zeros while they are not known."""


def measure(
    source: Source, dtype: str, threads: int | None, make_plan: Callable[[int, int], Plan], tell: Tell
) -> Measurements:
    """Run the whole audit.

    Args:
        source: the model's files.
        dtype, threads: as for :func:`pyml_nlp.load`.
        make_plan: from the model's context and number of layers to the plan.
        tell: called before each stage.

    Raises:
        PymlError: whatever loading raises, a plan that does not fit the model, or a cold process that failed.
    """
    begin = time.perf_counter()
    with loading.open_weights(source) as files:
        config = loading.describe(files).config
    plan = make_plan(config.context_length, config.n_layers)
    ids = _ids(config.vocab_size, max(*plan.prompt_lengths, plan.reference + plan.jitter_steps) + plan.decode_steps + 1)
    model = str(source.path)

    def limits() -> Limits:
        return measure_limits(threads, max(1 << 24, min(READ_BYTES, available_memory() // 4)))

    load = [os.getloadavg()[0]]
    tell("measuring the machine", 0, 0)
    start = time.perf_counter()
    measured = [limits()]
    limits_s = time.perf_counter() - start
    with tempfile.TemporaryDirectory(prefix="pyml-audit-") as folder:
        cache = Path(folder, "cache.safetensors")
        prompt = ids[: plan.reference]

        def cold_pair() -> list[ColdRun]:
            return [cold.run_cold(model, dtype, threads, kind, prompt, cache) for kind in ("prefill", "decode")]

        tell("first cold prefill and decode", 0, 0)
        start = time.perf_counter()
        runs = cold_pair()
        token_s, step_s = min(runs[0].again_ms) / 1e3 / plan.reference, min(runs[1].again_ms) / 1e3
        stages = plan.stages(limits_s, time.perf_counter() - start, runs[0].load_ms / 1e3, token_s, step_s)
        announce = _announcer(stages, tell)
        lengths = ", ".join(map(str, plan.prompt_lengths))
        left = _duration(sum(stage.seconds for stage in stages))
        tell(f"this will take about {left}: prompts of {lengths} tokens", 0, 0)
        for _ in range(1, plan.cold_runs):
            announce()
            runs += cold_pair()
    announce()
    with loading.load(model, dtype, threads) as lm:
        facts = _facts(lm, source, dtype)
        layers = list(plan.layers or range(facts.n_layers))
        announce()
        warm = _warm_prefills(lm, prompt, plan.repetitions)
        steps, stolen = _steps(lm, ids, plan)
        points, heat, timeline = [], {}, []
        for length in plan.prompt_lengths:
            announce()
            prefills, decodes = _sweep(lm, ids, length, plan)
            points.append(_point("prefill", length, prefills, lm.model.program, layers))
            points.append(_point("decode", length, decodes, lm.model.program, layers))
            if length == plan.reference:
                heat = {"prefill": _heat(prefills, facts.n_layers), "decode": _heat(decodes, facts.n_layers)}
                timeline = spans(sorted(decodes, key=_wall)[len(decodes) // 2])
        used_threads, level = lm.model.program.threads, lm.model.program.level
    load.append(os.getloadavg()[0])
    announce()
    measured.append(limits())
    info = pyml_core.cpu_info()
    return Measurements(
        version=pyml_core.__version__,
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        machine=Machine(
            cpu=info["model"],
            cores=info["threads"],
            memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            limits=measured,
            load=load,
            suspended_ms=_suspended_ms(),
        ),
        model=facts,
        threads=used_threads,
        level=level,
        layers=layers,
        reference=plan.reference,
        seconds=time.perf_counter() - begin,
        cold=runs,
        warm_prefill_ms=warm,
        steps=steps,
        stolen_ms=stolen,
        points=points,
        heat=heat,
        timeline=timeline,
    )


def _announcer(stages: Sequence[Stage], tell: Tell) -> Callable[[], None]:
    """A function that announces the next stage each time it is called."""
    total = sum(stage.seconds for stage in stages)
    left = iter(stages)
    done = 0.0

    def announce() -> None:
        nonlocal done
        stage = next(left)
        tell(stage.text, done, total)
        done += stage.seconds

    return announce


# ---- runs


def _ids(vocabulary: int, count: int) -> list[int]:
    return np.random.default_rng(SEED).integers(0, vocabulary, count).tolist()  # type: ignore[no-any-return]


def _warm_prefills(lm: LanguageModel, prompt: list[int], repetitions: int) -> list[float]:
    """Milliseconds of prefills after two that are not timed."""
    cache = lm.new_cache()
    times = []
    for _ in range(repetitions + 2):
        cache.trim(0)
        start = time.perf_counter()
        lm.forward([(cache, prompt, None)])
        times.append((time.perf_counter() - start) * 1e3)
    return times[2:]


def _steps(lm: LanguageModel, ids: list[int], plan: Plan) -> tuple[list[Step], float]:
    """Decode steps in a row behind the reference prompt, after some that warm up; and the time stolen meanwhile."""
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


def _sweep(lm: LanguageModel, ids: list[int], length: int, plan: Plan) -> tuple[list[list[Event]], list[list[Event]]]:
    """Traced prefills of a length, and traced decode steps behind the last: the events of each."""
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


# ---- from events to numbers


def part_of(event: Event) -> str:
    """The part of attention of an event that counts as such, or empty."""
    return event.phase if event.layer is not None and event.phase in PARTS else ""


def group_of(event: Event) -> str:
    """Which of the five groups of the model an operation belongs to."""
    if event.name.endswith(".attention.attend"):
        return SQUARE
    if ".attention." in event.name:
        return LINEAR
    if event.layer is not None:
        return FEED_FORWARD
    return HEAD if event.name.split(".")[0] in ("select", "final_norm", "head") else EMBEDDING


def folded(name: str) -> str:
    """``layers.*.attention.qkv`` for ``layers.3.attention.qkv``."""
    return re.sub(r"^layers\.\d+", "layers.*", name)


def _wall(events: Iterable[Event]) -> float:
    return next(event.ms for event in events if event.name == "forward")


def _point(kind: str, length: int, samples: list[list[Event]], program: Program, layers: Sequence[int]) -> Point:
    chosen = set(layers)
    parts: list[dict[str, float]] = []
    groups: list[dict[str, float]] = []
    for events in samples:
        part_ms: dict[str, float] = {}
        group_ms = dict.fromkeys(GROUPS, 0.0)
        for event in events:
            if (part := part_of(event)) and event.layer in chosen:
                part_ms[part] = part_ms.get(part, 0.0) + event.ms
            if level_of(event) == "operation":
                group_ms[group_of(event)] += event.ms
        parts.append(part_ms)
        groups.append(group_ms)
    middle = sorted(samples, key=_wall)[len(samples) // 2]
    return Point(
        kind,
        length,
        [_wall(events) for events in samples],
        {part: [sample[part] for sample in parts] for part in PARTS if part in parts[0]},
        {group: [sample[group] for sample in groups] for group in GROUPS},
        _operations(samples, program),
        _waiting(middle),
    )


def _operations(samples: list[list[Event]], program: Program) -> list[OperationSum]:
    quantized = {folded(operation.name): _quantized(operation.params) for operation in program.operations}
    sums: dict[str, list[list[float]]] = {}
    costs: dict[str, list[int]] = {}
    for index, events in enumerate(samples):
        for event in events:
            if level_of(event) != "operation":
                continue
            name = folded(event.name)
            sums.setdefault(name, [[] for _ in samples])[index].append(event.ms)
            if index == len(samples) - 1:
                cost = costs.setdefault(name, [0, 0, 0])
                cost[0] += 1
                cost[1] += event.bytes
                cost[2] += event.flops
    return [
        OperationSum(name, calls, statistics.median(map(sum, sums[name])), moved, flops, quantized[name])
        for name, (calls, moved, flops) in costs.items()
    ]


def _quantized(params: Any) -> bool:
    return any(matrix.quantized for matrix in params.get("matrices", ()))


def _waiting(events: Iterable[Event]) -> float:
    """Share of the threads' time in operations that was not work."""
    operations = [event for event in events if level_of(event) == "operation" and event.laps]
    there = sum(event.ms * len(event.laps) for event in operations)
    return max(0.0, 1 - sum(event.busy_ms for event in operations) / there) if there else 0.0


def _heat(samples: list[list[Event]], n_layers: int) -> list[dict[str, float]]:
    """Of each layer the median milliseconds of its operations, the parts of attention's apart."""
    cells: list[dict[str, list[float]]] = [{} for _ in range(n_layers)]
    for events in samples:
        found: list[dict[str, float]] = [{} for _ in range(n_layers)]
        for event in events:
            if event.layer is None:
                continue
            name = part_of(event)
            if not name:
                if level_of(event) != "operation" or event.name.rpartition(".")[2] in ("prepare", "attend"):
                    continue
                name = event.name.split(".", 2)[2]
            found[event.layer][name] = found[event.layer].get(name, 0.0) + event.ms
        for cell, layer in zip(cells, found, strict=True):
            for name, ms in layer.items():
                cell.setdefault(name, []).append(ms)
    return [{name: round(statistics.median(times), 5) for name, times in cell.items()} for cell in cells]


def spans(events: Sequence[Event]) -> list[Span]:
    """One step as stretches that nest: step, block, branch, operation, phase."""
    forward = next(event for event in events if event.name == "forward")
    found = [Span(0, "step", 0.0, round(forward.ms * 1e3, 2))]
    outer: dict[tuple[int, str], list[float]] = {}
    used: dict[str, float] = {}  # of an operation, by the phases put behind each other so far
    for event in events:
        level = level_of(event)
        start = (event.start_ns - forward.start_ns) / 1e3
        us = event.ms * 1e3
        pieces = event.name.split(".")
        if level == "operation":
            for depth in range(1, 3):
                name = ".".join(pieces[: 2 if depth == 1 else 3])
                if event.layer is None:
                    name = pieces[0]
                if depth == 1 or event.layer is not None:
                    whole = outer.setdefault((depth, name), [start, start])
                    whole[1] = max(whole[1], start + us)
            found.append(Span(3, event.name, round(start, 2), round(us, 2)))
        elif level == "phase":
            parent = event.name.rpartition(".")[0]
            found.append(Span(4, event.name, round(start + used.get(parent, 0.0), 2), round(us, 2)))
            used[parent] = used.get(parent, 0.0) + us
    found += [Span(d, name, round(a, 2), round(b - a, 2)) for (d, name), (a, b) in outer.items()]
    return sorted(found, key=lambda span: (span.depth, span.start_us))


# ---- facts


def _facts(lm: LanguageModel, source: Source, dtype: str) -> ModelFacts:
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
    name = Path(source.name).name if Path(source.name).exists() else source.name
    return ModelFacts(
        name=name,
        dtype=dtype,
        n_params=lm.model.n_params,
        n_layers=len(windows),
        context=lm.context_length,
        types=types,
        windows=windows,
        weight_bytes=lm.model.weight_bytes,
        kv_type=layout.dtype,
        kv_token_bytes=layout.page_bytes // pyml_core.PAGE_TOKENS,
        kv_page_tokens=pyml_core.PAGE_TOKENS,
        prefill_chunk=lm.prefill_chunk,
    )


def _clock_mhz() -> float:
    """The clock of the first core where Linux tells it (virtual machines rarely do), else 0."""
    try:
        return int(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq").read_text()) / 1e3
    except (OSError, ValueError):
        return 0.0


def _loop_us() -> float:
    """Microseconds of a fixed loop that stays in the first-level cache: about 50, more on a slower core."""
    start = time.perf_counter_ns()
    for _ in repeat(None, LOOPS):
        pass
    return (time.perf_counter_ns() - start) / 1e3


def _stolen_ms() -> float:
    """Processor time that the hypervisor gave to others since the machine began (``steal`` of /proc/stat)."""
    try:
        words = Path("/proc/stat").read_text().split("\n", 1)[0].split()
        return int(words[8]) * 1e3 / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0


def _suspended_ms() -> float:
    """Of each second, for which Linux stops this process since it runs at a real-time priority (sched(7))."""
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
