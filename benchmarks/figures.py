"""The figures of ``docs/audits``: numbers for the texts in ``studies``, from the reports of the models."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from pyml_nlp.audit.analyse import Analysis, analyse, position
from pyml_nlp.audit.conclusions import conclusions, ms, percent, rounded, share_of_groups, size
from pyml_nlp.audit.curves import Crossing
from pyml_nlp.audit.measurements import HEAD, LINEAR, SQUARE, Measurements

SWEEP = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
SHORT = 14  # tokens of the predecessor's second table


@dataclass(frozen=True)
class Predecessor:
    """Results of the predecessor's ninth audit for a model: ms of a prefill, its tokens, ms of a decode step."""

    prefill_ms: float
    tokens: int
    decode_ms: float


PARTS_OF_PREDECESSOR = {  # Gemma 3 1B, layer 0: ms of 14 tokens, ms of one
    "QKV": (10.4, 0.5), "QKnorm": (1.1, 0.03), "RoPE": (0.12, 0.01), "QK^T": (3.5, 0.2), "softmax": (0.06, 0.01),
    "A*V": (0.98, 0.02), "out": (1.3, 0.2),
}  # fmt: skip


@dataclass(frozen=True)
class Audited:
    """A model of the audits.

    Attributes:
        name: name of its report.
        title: name in tables.
        file: name in ``models.py``.
        lengths: lengths of the prompts to measure, including those of the predecessor's audit.
        predecessor: the predecessor's results.
    """

    name: str
    title: str
    file: str
    lengths: tuple[int, ...]
    predecessor: Predecessor | None = None

    @property
    def short(self) -> int:
        """The length of its short prompt."""
        return self.predecessor.tokens if self.predecessor else SHORT


MODELS = (
    Audited("gpt2-124m", "GPT-2 124M", "gpt2-124m", (13, *SWEEP[:6], 1000), Predecessor(500, 13, 50)),
    Audited("gemma3-270m", "Gemma 3 270M", "gemma3-270m", (SHORT, *SWEEP)),
    Audited("gemma3-1b", "Gemma 3 1B", "gemma3-1b-q8_0", (10, SHORT, *SWEEP[:8]), Predecessor(1604, 10, 178)),
    Audited("smollm2-135m", "SmolLM2 135M", "smollm2-135m", (SHORT, *SWEEP)),
)


@dataclass(frozen=True)
class Audit:
    """A model and its report."""

    model: Audited
    m: Measurements

    @property
    def title(self) -> str:
        """The model's name in tables."""
        return self.model.title

    @cached_property
    def a(self) -> Analysis:
        """The analysis of the report."""
        return analyse(self.m)

    @cached_property
    def token_ms(self) -> dict[int, float]:
        """Milliseconds of a prompt token, by the length of the prompt."""
        prefills = [point for point in self.m.sweep if point.kind == "prefill"]
        return {point.length: statistics.median(point.wall_ms) / point.length for point in prefills}

    @property
    def longest(self) -> int:
        """The longest prompt."""
        return max(self.token_ms)

    def step_ms(self, length: int) -> float:
        """Return the milliseconds of a decode step after a prompt of ``length`` tokens."""
        return statistics.median(self.m.point("decode", length).wall_ms)


def values(audits: Sequence[Audit]) -> dict[str, dict[str, str]]:
    """Return the figures of each text: name of the text -> name of the figure -> Markdown."""
    common = {"setting": setting(audits), "reference": str(audits[0].m.reference)}
    found = {
        "README": {"models": _models(audits)},
        "study-1": _prefill_and_decode(audits),
        "study-2": _decode(audits),
        "study-3": _prefill(audits),
        "study-4": _cold_and_steady(audits),
    }
    return {name: {**common, **figures} for name, figures in found.items()}


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; all columns but the first are right-aligned."""
    lines = [columns, ["---", *["--:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spread(numbers: Sequence[float], digits: int = 0) -> str:
    """Return ``3 to 5``, or one number if both are printed alike."""
    low, high = f"{min(numbers):.{digits}f}", f"{max(numbers):.{digits}f}"
    return low if low == high else f"{low} to {high}"


def each(audits: Sequence[Audit], texts: Sequence[str]) -> str:
    """Return ``3 (GPT-2 124M), 4 (Gemma 3 270M)``, or the text alone if all are equal."""
    if len(set(texts)) == 1:
        return texts[0]
    return ", ".join(f"{text} ({audit.title})" for audit, text in zip(audits, texts, strict=True))


def length_of(crossing: Crossing | None) -> str:
    """Return a length, marked if it was not measured."""
    if crossing is None:
        return "none in sight"
    return f"{'' if crossing.measured else '~'}{rounded(crossing.tokens)}"


def setting(audits: Sequence[Audit]) -> str:
    """Return date, machine and conditions."""
    m = audits[0].m
    read, int8, f32 = (
        spread([getattr(audit.a.limits, name) for audit in audits])
        for name in ("read_gb_s", "int8_gop_s", "f32_gflop_s")
    )
    links = ", ".join(f"[{audit.title}](models/{audit.model.name}.md)" for audit in audits)
    return (
        f"{m.date[:10]}, {m.machine.cpu}, {m.threads} threads, level {m.level}: plain reads {read} GB/s, int8 {int8} "
        f"GOP/s, f32 {f32} GFLOP/s. Reports: {links}."
    )


def _models(audits: Sequence[Audit]) -> str:
    rows = [
        [
            audit.title,
            f"{1e3 / audit.a.warm.per_token_ms:.0f}",
            f"{1e3 / audit.a.warm.decode_ms:.0f}",
            f"{audit.a.warm.gain:.0f}x",
            percent(audit.a.decode_gb_s / audit.a.limits.read_gb_s),
            percent(audit.a.roofs["prefill"].share),
            length_of(audit.a.crossing), f"{audit.a.jitter.p99 / audit.a.jitter.median:.2f}x",
        ]
        for audit in audits
    ]  # fmt: skip
    columns = [
        "", f"prefill of {audits[0].m.reference}, tokens/s", "decode, tokens/s", "decode / prefill token",
        "decode, of a plain read", "prefill, of its roofs", "attention turns quadratic from", "p99 / median step",
    ]  # fmt: skip
    return table(columns, rows)


def _conclusions(audits: Sequence[Audit], *titles: str) -> str:
    """Return the conclusions of every report whose titles begin with one of ``titles``."""
    lines = []
    for audit in audits:
        for found in conclusions(audit.m, audit.a):
            if found.title.startswith(titles):
                lines.append(f"- **{audit.title}. {found.title}.** {found.text} *{found.recommendation}*")
    return "\n".join(lines)


# ---- round 1


def _prefill_and_decode(audits: Sequence[Audit]) -> dict[str, str]:
    short = [audit.step_ms(audit.model.short) / audit.token_ms[audit.model.short] for audit in audits]
    cheapest = [min(audit.token_ms, key=lambda length: audit.token_ms[length]) for audit in audits]
    limits = audits[0].a.limits
    return {
        "seed": _seed(audits),
        "ratios": _ratios(audits),
        "parts": _parts_of_a_layer(next(audit for audit in audits if audit.model.name == "gemma3-1b")),
        "crossings": _crossings(audits),
        "gains": spread([audit.a.warm.gain for audit in audits]),
        "short": spread(short, 1),
        "cold": spread([audit.a.cold.gain for audit in audits]),
        "decode_intensity": spread([audit.a.roofs["decode"].intensity for audit in audits], 1),
        "prefill_intensity": spread([audit.a.roofs["prefill"].intensity for audit in audits]),
        "ridge": f"{limits.int8_gop_s / limits.read_gb_s:.0f}",
        "cheapest": each(audits, [str(length) for length in cheapest]),
        "inside": each(audits, [length_of(audit.a.crossing) for audit in audits]),
        "whole": each(audits, [length_of(audit.a.crossing_model) for audit in audits]),
    }


def _seed(audits: Sequence[Audit]) -> str:
    rows = []
    for audit in audits:
        old, length = audit.model.predecessor, audit.model.short
        token, step = audit.token_ms[length], audit.step_ms(length)
        row = [audit.title, f"{token * length:.2f}", str(length), f"{token:.3f}", f"{step:.2f}", f"{step / token:.1f}x"]
        if old:
            theirs = old.prefill_ms / old.tokens
            row += [f"{theirs:.0f}", f"{old.decode_ms:.0f}", f"{old.decode_ms / theirs:.2f}x"]
        rows.append(row + [""] * (9 - len(row)))
    columns = [
        "", "prefill ms", "tokens", "ms a token", "decode ms", "decode / prefill token", "predecessor: ms a token",
        "decode ms", "ratio",
    ]  # fmt: skip
    return table(columns, rows)


def _ratios(audits: Sequence[Audit]) -> str:
    lengths = sorted({length for audit in audits for length in audit.token_ms if length in SWEEP})
    rows = []
    for length in lengths:
        ratios = [audit.step_ms(length) / audit.token_ms[length] if length in audit.token_ms else 0 for audit in audits]
        rows.append([str(length), *(f"{ratio:.1f}x" if ratio else "" for ratio in ratios)])
    return table(["tokens", *(audit.title for audit in audits)], rows)


def _parts_of_a_layer(audit: Audit) -> str:
    layers = len(audit.m.layers)
    prefill, decode = audit.m.point("prefill", SHORT).parts_ms, audit.m.point("decode", SHORT).parts_ms
    rows = []
    for part, times in prefill.items():
        many, one = statistics.median(times) / layers, statistics.median(decode[part]) / layers
        old = PARTS_OF_PREDECESSOR.get(part)
        theirs = [f"{old[0]:g}", f"{old[1]:g}", f"{old[0] / old[1]:.1f}x"] if old else ["", "", ""]
        rows.append([part, f"{many:.4f}", f"{one:.4f}", f"{many / one:.1f}x", *theirs])
    columns = ["part", "14 tokens ms", "1 token ms", "ratio", "predecessor: 14 tokens ms", "1 token ms", "ratio"]
    return table(columns, rows)


def _crossings(audits: Sequence[Audit]) -> str:
    rows = []
    for audit in audits:
        fits = audit.a.fits["prefill"]
        share = share_of_groups(audit.m.point("prefill", audit.longest))[SQUARE]
        exponents = [f"{fits[f'{group} (longest)'].exponent:.2f}" for group in (LINEAR, SQUARE)]
        crossings = [length_of(audit.a.crossing), length_of(audit.a.crossing_model)]
        rows.append([audit.title, *exponents, *crossings, f"{percent(share)} at {audit.longest}"])
    columns = [
        "", "linear parts: exponent", "quadratic parts: exponent", "overtake attention's linear parts from",
        "overtake the rest of the model from", "share of a prefill",
    ]  # fmt: skip
    return table(columns, rows)


# ---- round 2


def _decode(audits: Sequence[Audit]) -> dict[str, str]:
    steps, depths, losses = [], [], []
    for audit in audits:
        a, m = audit.a, audit.m
        shares = share_of_groups(m.point("decode", m.reference))
        rest = 1 - shares[HEAD] - shares[SQUARE]
        steps.append(
            [
                audit.title, f"{a.warm.decode_ms:.2f}", f"{1e3 / a.warm.decode_ms:.0f}", size(a.decode_bytes),
                f"{a.decode_gb_s:.1f}", percent(a.decode_gb_s / a.limits.read_gb_s),
                percent(shares[HEAD]), percent(rest), percent(shares[SQUARE]),
                f"{statistics.median(m.screened_ms):.2f}" if m.screened_ms else "",
            ]
        )  # fmt: skip
        first, last = audit.step_ms(m.reference), audit.step_ms(audit.longest)
        depths.append([audit.title, f"{first:.2f}", str(audit.longest), f"{last:.2f}", f"{last / first:.2f}x"])
        for p in sorted(a.roofline["decode"], key=lambda p: -p.lost_ms)[:3]:
            losses.append([audit.title, p.name, f"{p.ms:.3f}", f"{p.gb_s:.1f}", percent(p.share), f"{p.lost_ms:.3f}"])
    columns = [
        "", "step ms", "tokens/s", "read", "GB/s", "of a plain read", "head", "the layers' matrices and norms",
        "QK^T, softmax, A*V", "head screened, step ms",
    ]  # fmt: skip
    reference = f"behind {audits[0].m.reference} ms"
    return {
        "steps": table(columns, steps),
        "depths": table(["", reference, "depth", "step ms", "ratio"], depths),
        "losses": table(["", "operation", "ms", "GB/s", "of its roof", "above it ms"], losses),
        "conclusions": _conclusions(audits, "Decode does", "Decode is", "Decode r", "Screening"),
    }


# ---- round 3


def _prefill(audits: Sequence[Audit]) -> dict[str, str]:
    prompts, operations = [], []
    for audit in audits:
        point, limits = audit.m.point("prefill", 512), audit.a.limits
        places = sorted((position(op, limits) for op in point.operations), key=lambda p: -p.ms)
        total, wall = sum(p.ms for p in places), statistics.median(point.wall_ms)
        rate = sum(op.flops for op in point.operations) / wall / 1e6
        prompts.append(
            [
                audit.title, f"{wall:.1f}", f"{512e3 / wall:.0f}", f"{rate:.0f}", percent(rate / limits.int8_gop_s),
                percent(1 - sum(p.lost_ms for p in places) / total), percent(point.waiting),
            ]
        )  # fmt: skip
        operations += [
            [
                audit.title, p.name, f"{p.ms:.2f}", percent(p.ms / total), f"{p.gop_s:.0f}", p.bound, percent(p.share),
                f"{p.lost_ms:.2f}",
            ]
            for p in places[:5]
        ]  # fmt: skip
    columns = ["", "ms", "tokens/s", "GOP/s", "of the int8 peak", "own roofs", "threads wait"]
    parts = ["", "operation", "ms", "share", "GOP/s", "bound by", "of its roof", "above it ms"]
    return {
        "prompts": table(columns, prompts),
        "operations": table(parts, operations),
        "conclusions": _conclusions(audits, "Prefill "),
    }


# ---- round 4


def _cold_and_steady(audits: Sequence[Audit]) -> dict[str, str]:
    cold, steps, peaks = [], [], []
    for audit in audits:
        a, m = audit.a, audit.m
        peaks.append(max(run.peak_bytes for run in m.cold))
        cold.append(
            [
                audit.title, f"{statistics.median([run.load_ms for run in m.cold]):.0f}",
                f"{a.cold.prefill_ms:.1f}", f"{a.warm.prefill_ms:.1f}", f"{a.cold.prefill_ms / a.warm.prefill_ms:.2f}x",
                f"{a.cold.decode_ms:.2f}", f"{a.warm.decode_ms:.2f}", f"{a.cold.decode_ms / a.warm.decode_ms:.2f}x",
                size(m.model.weight_bytes), size(peaks[-1]),
            ]
        )  # fmt: skip
        j = a.jitter
        causes = ", ".join(f"{cause} {ms(lost)}" for cause, lost in sorted(j.causes.items(), key=lambda item: -item[1]))
        times = [f"{time:.2f}" for time in (j.median, j.p95, j.p99, j.longest)]
        steps.append([audit.title, *times, f"{j.slow} of {len(m.steps)}", causes or "none"])
    return {
        "cold": table(
            ["", "load ms", "prefill: cold ms", "warm ms", "ratio", "decode: cold ms", "warm ms", "ratio", "weights",
             "process at most"], cold,
        ),
        "steps": table(
            ["", "median ms", "p95 ms", "p99 ms", "longest ms", "over 1.1 medians", "why: ms above the median"], steps
        ),
        "cold_prefill": spread([audit.a.cold.prefill_ms / audit.a.warm.prefill_ms for audit in audits], 2),
        "cold_decode": spread([audit.a.cold.decode_ms / audit.a.warm.decode_ms for audit in audits], 2),
        "suspended": _suspended(audits),
        "p99": spread([audit.a.jitter.p99 / audit.a.jitter.median for audit in audits], 2),
        "peak": spread([peak / audit.m.model.weight_bytes for peak, audit in zip(peaks, audits, strict=True)], 2),
    }  # fmt: skip


def _suspended(audits: Sequence[Audit]) -> str:
    longest = max(audit.m.machine.suspended_ms for audit in audits)
    if not longest:
        return ""
    return (
        " These audits ran at a real-time priority, so that other work on the machine did not disturb them; Linux "
        f"stops such a process for {longest:.0f} ms of each second, which are the longest steps of the table."
    )
