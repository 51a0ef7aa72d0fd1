"""Analysis of measurements by pure functions: ratios, exponents, crossings, rooflines, spread."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pyml_core.limits import Limits

from .curves import Crossing, Fit, crossing, fit, pairs, tail
from .measurements import GROUPS, LINEAR, PARTS, QUADRATIC, SQUARE, Measurements, OperationSum, Step, SweepPoint

SLOW = 1.1  # a step that takes more than this multiple of the median is slow


@dataclass(frozen=True)
class Efficiency:
    """Prefill compared with decode, in ms per token; ``gain`` is decode / prefill."""

    prefill_ms: float
    tokens: int
    decode_ms: float

    @property
    def per_token_ms(self) -> float:
        """Milliseconds for one prompt token."""
        return self.prefill_ms / self.tokens

    @property
    def gain(self) -> float:
        """Ratio of the time for a decoded token to that for a prompt token."""
        return self.decode_ms / self.per_token_ms


@dataclass(frozen=True)
class Scaling:
    """A part of attention in prefill and in a decode step; ``expected``: their ratio if time followed arithmetic."""

    part: str
    prefill_ms: float
    decode_ms: float
    quadratic: bool
    expected: float


@dataclass(frozen=True)
class Position:
    """An operation under the roofline: its rates by wall time, and the share that it reaches of the machine's limit.

    Attributes:
        intensity: operations per byte.
        share: rate / roof, for a pure copy bytes / bandwidth; above 1 if data came from caches.
        bound: ``memory`` or ``arithmetic``: the part of the roof above it.
        lost_ms: time that it would save at the roof.
    """

    name: str
    ms: float
    gb_s: float
    gop_s: float
    intensity: float
    roof_gop_s: float
    share: float
    bound: str
    lost_ms: float


@dataclass(frozen=True)
class Roofs:
    """All operations of a phase together.

    Attributes:
        share: the sum of the operations' times at their roofs, as a share of their real time.
        bound: ``memory`` or ``arithmetic``: the part of the roof that limits most of the time.
        intensity: operations per byte, over all operations.
    """

    share: float
    bound: str
    intensity: float


@dataclass(frozen=True)
class Jitter:
    """The spread of decode steps, and causes of slow ones.

    ``causes`` has the milliseconds of slow steps above the median, by cause, as far as the system's counters show it.
    """

    median: float
    p95: float
    p99: float
    longest: float
    slow: int
    causes: dict[str, float]


@dataclass(frozen=True)
class Analysis:
    """Conclusions from the measurements as numbers. Fits are by phase, then by group or part."""

    limits: Limits
    limits_spread: float
    cold: Efficiency
    warm: Efficiency
    traced_decode_ms: float
    scaling: list[Scaling]
    fits: dict[str, dict[str, Fit]]
    crossing: Crossing | None
    crossing_model: Crossing | None
    roofline: dict[str, list[Position]]
    roofs: dict[str, Roofs]
    jitter: Jitter
    decode_gb_s: float
    decode_bytes: int
    kv_bytes: int
    prefill_bytes: int
    prefill_gop_s: float


def analyse(m: Measurements) -> Analysis:
    """Analyse all measurements."""
    median = statistics.median
    limits = best_limits(m.machine.limits)
    prefill, decode = m.point("prefill", m.reference), m.point("decode", m.reference)
    step = median([s.ms for s in m.steps])
    cold = Efficiency(
        median([run.first_ms for run in m.cold_runs("prefill")]),
        m.reference,
        median([run.first_ms for run in m.cold_runs("decode")]),
    )
    prefills = [point for point in m.sweep if point.kind == "prefill"]
    decodes = [point for point in m.sweep if point.kind == "decode"]
    linear, square = curve(prefills, [LINEAR]), curve(prefills, [SQUARE])
    rest = curve(prefills, [group for group in GROUPS if group != SQUARE])
    read = sum(operation.bytes for operation in decode.operations)
    prefill_ops = sum(operation.flops for operation in prefill.operations)
    roofline = {point.kind: [position(op, limits) for op in point.operations] for point in (prefill, decode)}
    return Analysis(
        limits=limits,
        limits_spread=spread_of_limits(m.machine.limits),
        cold=cold,
        warm=Efficiency(median(m.warm_prefill_ms), m.reference, step),
        traced_decode_ms=median(decode.wall_ms),
        scaling=scaling(prefill, decode, m.model.windows),
        fits={"prefill": fits_of(prefills), "decode": fits_of(decodes)},
        crossing=crossing(linear, square, m.model.windows),
        crossing_model=crossing(rest, square, m.model.windows),
        roofline=roofline,
        roofs={kind: roofs(positions) for kind, positions in roofline.items()},
        jitter=jitter(m.steps),
        decode_gb_s=read / step / 1e6,
        decode_bytes=read,
        kv_bytes=kv_read(m.model.windows, m.model.kv_token_bytes, m.reference),
        prefill_bytes=sum(operation.bytes for operation in prefill.operations),
        prefill_gop_s=prefill_ops / median(m.warm_prefill_ms) / 1e6,
    )


# ---- curves


def curve(points: Sequence[SweepPoint], groups: Sequence[str]) -> dict[int, float]:
    """Return length -> median milliseconds of these groups or parts together, without zeros."""
    found = {}
    for point in points:
        samples = [
            sum(times) for times in zip(*({**point.groups_ms, **point.parts_ms}[name] for name in groups), strict=True)
        ]
        ms = statistics.median(samples)
        if ms > 0:
            found[point.length] = ms
    return found


def fits_of(points: Sequence[SweepPoint]) -> dict[str, Fit]:
    """Fit each group and part, and separately its longest lengths (``... (longest)``)."""
    found: dict[str, Fit] = {}
    names = [*GROUPS, *(part for part in PARTS if points and part in points[0].parts_ms)]
    for name in names:
        values = curve(points, [name])
        for title, some in ((name, values), (f"{name} (longest)", tail(values))):
            result = fit(some)
            if result is not None:
                found[title] = result
    return found


# ---- attention


def kv_read(windows: Sequence[int], token_bytes: int, position: int) -> int:
    """Return the bytes of keys and values that a decode step at this position reads."""
    return round(sum(pairs(position, 1, window) for window in windows)) * token_bytes // max(len(windows), 1)


def scaling(prefill: SweepPoint, decode: SweepPoint, windows: Sequence[int]) -> list[Scaling]:
    """Compare each part of attention in a prefill of N tokens and in the decode step after it.

    If time followed arithmetic, the ratio would be N for linear parts; for quadratic parts it would be the ratio of the
    (query, key) pairs, about N / 2, because a decode step sees all N keys.
    """
    n = prefill.length
    work = sum(pairs(0, n, window) for window in windows) / sum(pairs(n, 1, window) for window in windows)
    return [
        Scaling(
            part,
            statistics.median(prefill.parts_ms[part]),
            statistics.median(decode.parts_ms[part]),
            part in QUADRATIC,
            work if part in QUADRATIC else float(n),
        )
        for part in prefill.parts_ms
        if part in decode.parts_ms
    ]


# ---- the machine


def best_limits(limits: Sequence[Limits]) -> Limits:
    """Return the best of each limit: the performance that the machine has shown."""
    return Limits(
        limits[0].threads,
        limits[0].level,
        max(one.read_gb_s for one in limits),
        max(one.int8_gop_s for one in limits),
        max(one.f32_gflop_s for one in limits),
    )


def spread_of_limits(limits: Sequence[Limits]) -> float:
    """Return the relative variation of the machine's limits, as a share of the best."""
    best = best_limits(limits)
    shares = ((1 - one.read_gb_s / best.read_gb_s, 1 - one.int8_gop_s / best.int8_gop_s) for one in limits)
    return max(max(pair) for pair in shares)


def position(operation: OperationSum, limits: Limits) -> Position:
    """Place an operation under the roofline."""
    ms = max(operation.ms, 1e-6)
    gb_s, gop_s = operation.bytes / ms / 1e6, operation.flops / ms / 1e6
    intensity = operation.flops / operation.bytes if operation.bytes else 0.0
    peak = limits.int8_gop_s if operation.quantized else limits.f32_gflop_s
    roof = limits.roof(intensity, operation.quantized)
    share = max(gop_s / roof if roof else 0.0, gb_s / limits.read_gb_s if not operation.flops else 0.0)
    bound = "memory" if intensity * limits.read_gb_s < peak else "arithmetic"
    return Position(
        operation.name, operation.ms, gb_s, gop_s, intensity, roof, share, bound, operation.ms * max(0.0, 1 - share)
    )


def roofs(positions: Sequence[Position]) -> Roofs:
    """Summarise all operations of a phase."""
    total = sum(p.ms for p in positions) or 1e-6
    arithmetic = sum(p.ms for p in positions if p.bound == "arithmetic")
    moved = sum(p.gb_s * p.ms for p in positions)
    return Roofs(
        1 - sum(p.lost_ms for p in positions) / total,
        "arithmetic" if 2 * arithmetic > total else "memory",
        sum(p.gop_s * p.ms for p in positions) / moved if moved else 0.0,
    )


# ---- spread


def percentile(values: Sequence[float], share: float) -> float:
    """Return a percentile, by linear interpolation between the sorted values."""
    return float(np.quantile(np.asarray(values, float), share))


NEW_PAGE, FIRST_TOUCH, SCHEDULER, CLOCK, UNKNOWN = (
    "a new page of the KV cache", "first touch of memory", "the scheduler", "a slower core",
    "not reported by the system",
)  # fmt: skip


def jitter(steps: Sequence[Step]) -> Jitter:
    """Return the spread of the steps and the causes of slow ones.

    A slow step is attributed to the first cause that applies: the cache grew in it; it had more page faults than usual;
    a thread lost its processor; the core was slow (its clock is 5 % below the median if the system reports it, or the
    fixed loop after the step took 5 % longer than usual). The rest may be due to the memory bus or to other guests of a
    hypervisor, which the system does not report.
    """
    times = [step.ms for step in steps]
    middle = statistics.median(times)
    usual_faults = statistics.median([step.minor_faults for step in steps])
    usual_switches = statistics.median([step.involuntary_switches for step in steps])
    usual_mhz = statistics.median([step.mhz for step in steps])
    usual_loop = statistics.median([step.loop_us for step in steps])
    causes: dict[str, float] = {}
    slow = [step for step in steps if step.ms > SLOW * middle]
    for step in slow:
        if step.new_page:
            cause = NEW_PAGE
        elif step.major_faults or step.minor_faults > usual_faults + 16:
            cause = FIRST_TOUCH
        elif step.involuntary_switches > usual_switches:
            cause = SCHEDULER
        elif step.mhz < 0.95 * usual_mhz or step.loop_us > 1.05 * usual_loop:
            cause = CLOCK
        else:
            cause = UNKNOWN
        causes[cause] = causes.get(cause, 0.0) + step.ms - middle
    return Jitter(middle, percentile(times, 0.95), percentile(times, 0.99), max(times), len(slow), causes)
