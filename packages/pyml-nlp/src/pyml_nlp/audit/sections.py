"""A report as sections of text and tables, independent of the output format."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from .analyse import Analysis, Efficiency, Position
from .conclusions import Conclusion, conclusions, ms, percent, rounded, share_of_groups, size, where
from .curves import Fit
from .measurements import GROUPS, LINEAR, PARTS, SQUARE, Measurements


class Shown(NamedTuple):
    """A number with its own formatting: ``12.3x``, ``4.5 MB``."""

    value: float
    text: str


Cell = str | int | float | Shown


@dataclass(frozen=True)
class Table:
    """A table. Headings have the units; floats have ``digits`` decimals, or four significant digits (None)."""

    columns: list[str]
    rows: list[list[Cell]]
    digits: int | None = None

    def text(self, cell: Cell) -> str:
        """Format a cell."""
        if isinstance(cell, Shown):
            return cell.text
        if not isinstance(cell, float):
            return str(cell)
        digits = self.digits
        if digits is None:
            digits = next((n for n, least in enumerate((1000, 100, 10)) if abs(cell) >= least), 3)
        text = f"{cell:.{digits}f}"
        return text.removeprefix("-") if float(text) == 0 else text

    def is_numeric(self, column: int) -> bool:
        """Return whether all filled cells of a column are numbers."""
        cells = [row[column] for row in self.rows if row[column] != ""]
        return bool(cells) and not any(isinstance(cell, str) for cell in cells)


class SummaryTile(NamedTuple):
    """One of the figures at the top of a report."""

    label: str
    value: str
    note: str


@dataclass(frozen=True)
class Section:
    """A heading with paragraphs, tables, conclusions, and the names of its charts (HTML only)."""

    title: str
    text: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    charts: list[str] = field(default_factory=list)
    conclusions: list[Conclusion] = field(default_factory=list)


def sections(m: Measurements, a: Analysis) -> list[Section]:
    """Return the sections of the whole report, in order."""
    makers: tuple[Callable[[Measurements, Analysis], Section], ...] = (
        _conclusions, _groups, _efficiency, _choices, _attention, _lengths, _roofline, _jitter, _layers, _memory,
        _machine,
    )  # fmt: skip
    return [make(m, a) for make in makers]


def title(m: Measurements) -> str:
    """Return the report's title."""
    return f"Performance audit: {m.model.name}"


def summary(m: Measurements, a: Analysis) -> str:
    """Return the report's first line."""
    return (
        f"{m.date[:10]}, {m.machine.cpu}, {m.threads} threads, level {m.level}, dtype {m.model.dtype}: prefill "
        f"{1e3 / a.warm.per_token_ms:.0f} tokens/s ({m.reference} tokens), decode {1e3 / a.warm.decode_ms:.1f} "
        "tokens/s."
    )


def summary_tiles(m: Measurements, a: Analysis) -> list[SummaryTile]:
    """Return the most important figures."""
    reached = a.decode_gb_s / a.limits.read_gb_s
    shares = share_of_groups(m.point("decode", m.reference))
    largest = max(shares, key=lambda group: shares[group])
    screened = f", {ms(statistics.median(m.screened_ms))} with the head screened" if m.screened_ms else ""
    crossing = ("not in sight", "QK^T, softmax, A*V stay below its linear parts")
    if a.crossing is not None:
        how = "" if a.crossing.measured else ", by extrapolation"
        crossing = (f"{rounded(a.crossing.tokens)} tokens", f"QK^T, softmax, A*V overtake its linear parts{how}")
    return [
        SummaryTile("decode", f"{1e3 / a.warm.decode_ms:.1f} tokens/s", f"{ms(a.warm.decode_ms)} a step{screened}"),
        SummaryTile("decode's memory traffic", percent(reached), f"of the memory's {a.limits.read_gb_s:.1f} GB/s"),
        SummaryTile("largest in decode", largest, f"{percent(shares[largest])} of a step"),
        SummaryTile(
            "prefill",
            f"{1e3 / a.warm.per_token_ms:.0f} tokens/s",
            f"{ms(a.warm.per_token_ms)} a token of {m.reference}",
        ),
        SummaryTile("prefill's operations", percent(a.roofs["prefill"].share), "of their roofs, arithmetic or memory"),
        SummaryTile("decode / prefill token", f"{a.warm.gain:.1f}x", f"cold {a.cold.gain:.1f}x"),
        SummaryTile("attention turns quadratic from", *crossing),
        SummaryTile(
            "slowest steps", f"{a.jitter.p99 / a.jitter.median:.2f}x", f"p99 over median of {len(m.steps)} decode steps"
        ),
    ]


def times(a: float, b: float) -> Cell:
    """Format the ratio a / b."""
    return Shown(a / b, f"{a / b:.1f}x") if b else ""


def share(value: float) -> Shown:
    """Format a share of 1 in percent."""
    return Shown(value, percent(value))


def amount(count: float) -> Shown:
    """Format a number of bytes."""
    return Shown(count, size(count))


def _conclusions(m: Measurements, a: Analysis) -> Section:
    return Section("Conclusions", conclusions=conclusions(m, a))


def _machine(m: Measurements, a: Analysis) -> Section:
    rows: list[list[Cell]] = []
    for when, limits, load in zip(("before", "after"), m.machine.limits, m.machine.load, strict=False):
        rows.append([when, limits.read_gb_s, limits.int8_gop_s, limits.f32_gflop_s, load])
    rows.append(["best", a.limits.read_gb_s, a.limits.int8_gop_s, a.limits.f32_gflop_s, ""])
    types = ", ".join(f"{name} {size(count)}" for name, count in m.model.types.items())
    return Section(
        "Machine and model",
        [
            f"{m.machine.cpu}, {m.machine.cores} cores, {size(m.machine.memory_bytes)} of memory; {m.threads} "
            f"threads, kernels of level {m.level}; pyml {m.version}. {m.model.n_params / 1e6:.1f}M parameters in "
            f"{m.model.n_layers} layers: {types}. The audit took {m.seconds:.0f} s.",
            "Limits of the machine with these threads and this level's instructions:",
        ],
        [Table(["", "read GB/s", "int8 GOP/s", "f32 GFLOP/s", "load average"], rows, 1)],
    )


def _efficiency(m: Measurements, a: Analysis) -> Section:
    def row(name: str, e: Efficiency) -> list[Cell]:
        return [name, e.prefill_ms, e.tokens, e.per_token_ms, e.decode_ms, times(e.decode_ms, e.per_token_ms)]

    load = statistics.median([run.load_ms for run in m.cold])
    return Section(
        "Per-token efficiency of prefill and decode",
        [
            f"Cold: the first run of a new process after loading ({ms(load)}); measured {len(m.cold_runs('prefill'))} "
            "times for the prefill, and as often for a decode step after a saved cache. Warm: after similar "
            "runs. Medians, not traced.",
        ],
        [Table(["", "prefill ms", "tokens", "ms/token", "decode ms", "decode / prefill token"],
               [row("cold", a.cold), row("warm", a.warm)])],
    )  # fmt: skip


def _attention(m: Measurements, a: Analysis) -> Section:
    n = m.reference
    rows: list[list[Cell]] = []
    for part in a.scaling:
        growth = "quadratic" if part.quadratic else "linear"
        rows.append(
            [
                part.part,
                part.prefill_ms,
                part.decode_ms,
                times(part.prefill_ms, part.decode_ms),
                Shown(part.expected, f"{part.expected:.0f}x ({growth})"),
            ]
        )
    total = [sum(part.prefill_ms for part in a.scaling), sum(part.decode_ms for part in a.scaling)]
    rows.append(["all", *total, times(total[0], total[1]), ""])
    chosen = "all layers" if len(m.layers) == m.model.n_layers else f"layers {', '.join(map(str, m.layers))}"
    return Section(
        "Attention, part by part",
        [
            f"A prefill of {n} tokens and the decode step after it ({chosen} together). Expected: the ratio if time "
            f"were proportional to arithmetic; a decode step sees all {n} keys, so quadratic parts come to about N/2. "
            "A lower ratio means that many tokens share costs that a single token pays alone (reading weights, "
            "starting threads).",
        ],
        [Table(["part", f"prefill ({n} tokens) ms", "decode ms", "ratio", "expected"], rows)],
        ["components"],
    )  # fmt: skip


def _choices(m: Measurements, a: Analysis) -> Section:
    rows: list[list[Cell]] = [
        [
            one.option,
            *(
                Shown(statistics.median(ratios), f"{statistics.median(ratios):.2f}x")
                for ratios in (one.prefill, one.decode)
            ),
            amount(one.weight_bytes),
        ]
        for one in m.choices
    ]
    if not rows:
        return Section("Other options", ["No other options were measured."])
    columns = ["option", f"prefill ({m.reference} tokens), speed", "decode, speed", "weights"]
    return Section(
        "Other options",
        [
            f"Speed with another option as a multiple of the speed with those of this audit ({m.threads} threads, "
            f"{m.model.kv_type} keys and values, weights of {size(m.model.weight_bytes)}), in alternation, medians of "
            f"{len(m.choices[0].prefill)} rounds. Other types of weights, keys and values change the numbers.",
        ],
        [Table(columns, rows)],
    )


def _groups(m: Measurements, a: Analysis) -> Section:
    prefill, decode = m.point("prefill", m.reference), m.point("decode", m.reference)
    shares = {"prefill": share_of_groups(prefill), "decode": share_of_groups(decode)}
    rows: list[list[Cell]] = [
        [
            group,
            statistics.median(prefill.groups_ms[group]), share(shares["prefill"][group]),
            statistics.median(decode.groups_ms[group]), share(shares["decode"][group]),
        ]
        for group in GROUPS
    ]  # fmt: skip
    return Section(
        "Where the time goes: attention, feed-forward, head",
        [
            "Linear parts of attention: norm, projections, rotation (QKV, QKnorm, RoPE, append, out). Quadratic parts: "
            "QK^T, softmax, A*V. The head computes logits for one position in each run, even of a prompt."
        ],
        [Table(["", f"prefill ({m.reference} tokens) ms", "share", "decode ms", "share"], rows)],
        ["groups"],
    )


def _lengths(m: Measurements, a: Analysis) -> Section:
    rows: list[list[Cell]] = []
    for length in sorted({point.length for point in m.sweep}):
        prefill, decode = m.point("prefill", length), m.point("decode", length)
        wall = statistics.median(prefill.wall_ms)
        medians = [statistics.median(prefill.groups_ms[group]) for group in (LINEAR, SQUARE)]
        step = statistics.median(decode.wall_ms)
        gain = times(step, wall / length)
        rows.append([length, wall, wall / length, 1e3 * length / wall, *medians, step, gain])
    fitted: list[list[Cell]] = []
    for name in (*GROUPS, *PARTS):
        row: list[Cell] = [name]
        for phase in ("prefill", "decode"):
            for key in (name, f"{name} (longest)"):
                found: Fit | None = a.fits[phase].get(key)
                row.append("" if found is None else found.exponent)
        if any(row[1:]):
            fitted.append(row)
    crossing = "Quadratic attention does not overtake the linear parts of attention."
    if a.crossing is not None:
        crossing = f"Quadratic attention overtakes the linear parts of attention at {where(a.crossing)}."
    columns = [
        "tokens", "prefill ms", "ms/token", "tokens/s", "attention, linear ms", "attention, quadratic ms", "decode ms",
        "decode / prefill token",
    ]  # fmt: skip
    text = "Traced runs, medians. Decode is a step after a prompt of that length."
    tables = [Table(columns, rows)]
    if len(rows) > 1:
        text += (
            " Exponents p of ms ~ tokens^p are least squares in logarithms, over all lengths and over the longest "
            f"three. {crossing}"
        )
        tables.append(Table(["", "prefill p", "longest", "decode p", "longest"], fitted, 2))
    return Section("Prompt lengths", [text], tables, ["scaling"])


def _roofline(m: Measurements, a: Analysis) -> Section:
    def row(p: Position) -> list[Cell]:
        return [p.name, p.ms, p.gb_s, p.gop_s, p.intensity, p.bound, share(p.share), p.lost_ms]

    columns = ["operation", "ms", "GB/s", "GOP/s", "operations/byte", "bound by", "of its roof", "above it ms"]
    tables = []
    for phase in ("prefill", "decode"):
        some = sorted(a.roofline[phase], key=lambda p: -p.ms)
        tables.append(Table([f"{phase}: {columns[0]}", *columns[1:]], [row(p) for p in some]))
    return Section(
        "Roofline",
        [
            f"The roof is the peak of the operation's arithmetic (int8 {a.limits.int8_gop_s:.0f} GOP/s, f32 "
            f"{a.limits.f32_gflop_s:.0f} GFLOP/s) or {a.limits.read_gb_s:.1f} GB/s times its operations per byte, "
            "whichever is lower. Bytes count weights, keys, values and activations once; above 100 % of a roof of "
            "memory, they came from caches; above one of arithmetic, the peak was measured too low.",
        ],
        tables,
        ["roofline"],
    )  # fmt: skip


def _jitter(m: Measurements, a: Analysis) -> Section:
    j = a.jitter
    rows: list[list[Cell]] = [[len(m.steps), j.median, j.p95, j.p99, j.longest, j.slow]]
    causes: list[list[Cell]] = [[cause, lost] for cause, lost in sorted(j.causes.items(), key=lambda item: -item[1])]
    clock = [step.mhz for step in m.steps if step.mhz]
    stops = ""
    if m.machine.suspended_ms:
        stops = (
            " The process ran at a real-time priority, which Linux suspends for "
            f"{m.machine.suspended_ms:.0f} ms of each second if it never waits: some steps last longer by this time."
        )
    pace_text = f"clock {min(clock):.0f} to {max(clock):.0f} MHz" if clock else "the clock is not reported here"
    pace = [step.loop_us for step in m.steps]
    pace_text += f"; a fixed loop after each step took {min(pace):.0f} to {max(pace):.0f} µs"
    return Section(
        "Jitter of decode steps",
        [
            f"Consecutive steps after {m.reference} tokens, not traced. Page faults "
            f"{sum(s.minor_faults for s in m.steps)}, involuntary context switches "
            f"{sum(s.involuntary_switches for s in m.steps)}, {pace_text}; time stolen by a hypervisor "
            f"{m.stolen_ms:.0f} ms.{stops}",
        ],
        [
            Table(["steps", "median ms", "p95 ms", "p99 ms", "longest ms", "slow (over 1.1 medians)"], rows),
            *([Table(["cause of slow steps", "ms above the median"], causes)] if causes else []),
        ],
        ["jitter"],
    )  # fmt: skip


def _layers(m: Measurements, a: Analysis) -> Section:
    rows: list[list[Cell]] = []
    for layer in range(m.model.n_layers):
        totals = [
            sum(m.layer_heatmap[phase][layer].values()) if m.layer_heatmap else 0.0 for phase in ("prefill", "decode")
        ]
        window = str(m.model.windows[layer]) if m.model.windows[layer] else "all"
        rows.append([layer, window, *totals])
    columns = ["layer", "sees positions", f"prefill ({m.reference} tokens) ms", "decode ms"]
    return Section("Layer by layer", [], [Table(columns, rows)], ["heatmap", "timeline"])


def _memory(m: Measurements, a: Analysis) -> Section:
    loaded = statistics.median([run.loaded_bytes for run in m.cold])
    peak = statistics.median([run.peak_bytes for run in m.cold_runs("prefill")])
    context = m.model.kv_token_bytes * m.model.context
    rows: list[list[Cell]] = [
        ["weights, as packed", amount(m.model.weight_bytes)],
        [f"keys and values of one position ({m.model.kv_type})", amount(m.model.kv_token_bytes)],
        [f"of the reference prompt ({m.reference})", amount(m.model.kv_token_bytes * m.reference)],
        [f"of the whole context ({m.model.context})", amount(context)],
        ["read by a decode step, all", amount(a.decode_bytes)],
        ["of that keys and values", amount(a.kv_bytes)],
        ["process after loading (resident)", amount(loaded)],
        [f"process at most, prefill of {m.reference} tokens", amount(peak)],
    ]
    return Section("KV cache and memory", [], [Table(["", "bytes"], rows)])
