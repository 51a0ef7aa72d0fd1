"""Comparison of two reports: changes beyond the noise.

A change is reported only if the medians differ by more than three standard errors of their difference (each estimated
from the median absolute deviation) and by more than a minimum, and if the quartiles do not overlap. The minimum is 2 %,
or the variation of the machine's own limit, within each audit and between them. The limit is that of memory for
quantities bounded by memory (decoding, loading, the head), and that of arithmetic for the others.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pyml_core.errors import PymlError

from .analyse import best_limits, percentile
from .measurements import EMBEDDING, HEAD, Measurements, parse

ERRORS = 3.0
FLOOR = 0.02
MEMORY, ARITHMETIC = "read_gb_s", "int8_gop_s"  # names of the machine's limits
FEWEST = 3  # minimum number of samples


@dataclass(frozen=True)
class Change:
    """One quantity in both reports, in ms.

    ``verdict``: ``faster``, ``slower``, ``within the noise``, or ``too few samples``.
    """

    name: str
    before: float
    before_spread: float
    after: float
    after_spread: float
    verdict: str

    @property
    def relative(self) -> float:
        """(after - before) / before."""
        return (self.after - self.before) / self.before if self.before else math.inf


def read(path: Path) -> Measurements:
    """Read a ``report.json``.

    Raises:
        PymlError: it cannot be read, or is not a report.
    """
    try:
        value = json.loads(path.read_text())
    except OSError as error:
        raise PymlError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise PymlError(f"{path}: expected a report that pyml audit wrote: {error}") from None
    return parse(value, str(path))


class Quantity(NamedTuple):
    """A quantity that two audits can be compared by; ``limit`` names the machine's limit that bounds it."""

    name: str
    samples: Sequence[float]
    limit: str


def quantities(m: Measurements) -> Iterator[Quantity]:
    """Iterate over all quantities that two audits can be compared by."""
    yield Quantity("load", [run.load_ms for run in m.cold], MEMORY)
    yield Quantity(f"cold prefill of {m.reference}", [run.first_ms for run in m.cold_runs("prefill")], ARITHMETIC)
    yield Quantity(f"cold decode after {m.reference}", [run.first_ms for run in m.cold_runs("decode")], MEMORY)
    yield Quantity(f"warm prefill of {m.reference}", m.warm_prefill_ms, ARITHMETIC)
    yield Quantity(f"warm decode after {m.reference}", [step.ms for step in m.steps], MEMORY)
    yield Quantity("decode in a text, all logits", m.full_ms, MEMORY)
    yield Quantity("decode in a text, head screened", m.screened_ms, MEMORY)
    for point in m.sweep:
        where = f"{point.kind} {'of' if point.kind == 'prefill' else 'after'} {point.length}"
        limit = ARITHMETIC if point.kind == "prefill" else MEMORY
        yield Quantity(where, point.wall_ms, limit)
        for name, times in point.groups_ms.items():
            yield Quantity(f"{where}: {name}", times, MEMORY if name in (EMBEDDING, HEAD) else limit)
        yield from (Quantity(f"{where}: attention's {name}", times, limit) for name, times in point.parts_ms.items())


def floor_of(a: Measurements, b: Measurements, limit: str) -> float:
    """Return the smallest relative change that is reported for quantities bounded by this limit."""
    before: list[float] = [getattr(one, limit) for one in a.machine.limits]
    after: list[float] = [getattr(one, limit) for one in b.machine.limits]
    moved = abs(1 - max(after) / max(before))
    return max(FLOOR, moved, 1 - min(before) / max(before), 1 - min(after) / max(after))


def compare(a: Measurements, b: Measurements) -> list[Change]:
    """Compare all quantities that both audits have; ``a`` is the earlier one."""
    later = {quantity.name: quantity.samples for quantity in quantities(b)}
    floors = {limit: floor_of(a, b, limit) for limit in (MEMORY, ARITHMETIC)}
    return [
        _change(name, samples, later[name], floors[limit])
        for name, samples, limit in quantities(a)
        if samples and later.get(name)
    ]


def _change(name: str, before: Sequence[float], after: Sequence[float], floor: float) -> Change:
    old, new = statistics.median(before), statistics.median(after)
    verdict = "within the noise"
    if min(len(before), len(after)) < FEWEST:
        verdict = "too few samples"
    elif (
        abs(new - old) > ERRORS * math.hypot(_error(before), _error(after))
        and abs(new - old) > floor * old
        and _apart(before, after)
    ):
        verdict = "faster" if new < old else "slower"
    return Change(name, old, _spread(before), new, _spread(after), verdict)


def _spread(samples: Sequence[float]) -> float:
    """Return half the interquartile range."""
    return (percentile(samples, 0.75) - percentile(samples, 0.25)) / 2


def _error(samples: Sequence[float]) -> float:
    """Return the standard error of the median, estimated from the median absolute deviation (normal distribution)."""
    middle = statistics.median(samples)
    deviation = statistics.median(abs(sample - middle) for sample in samples)
    return 1.2533 * 1.4826 * deviation / math.sqrt(len(samples))


def _apart(a: Sequence[float], b: Sequence[float]) -> bool:
    return percentile(a, 0.75) < percentile(b, 0.25) or percentile(b, 0.75) < percentile(a, 0.25)


def text(a: Measurements, b: Measurements) -> str:
    """Return the comparison in Markdown."""
    changes = compare(a, b)
    lines = [f"# {a.model.name}, {a.date} to {b.date}", ""]
    for name, one, other in (
        ("model", f"{a.model.name} {a.model.dtype}", f"{b.model.name} {b.model.dtype}"),
        ("machine", a.machine.cpu, b.machine.cpu),
        ("threads", str(a.threads), str(b.threads)),
        ("level", a.level, b.level),
        ("layers", str(a.layers), str(b.layers)),
    ):
        if one != other:
            lines.append(f"Different {name}: {one}, then {other}.")
    first, second = best_limits(a.machine.limits), best_limits(b.machine.limits)
    lines += [
        f"The machine gave {first.read_gb_s:.1f} and {second.read_gb_s:.1f} GB/s, {first.int8_gop_s:.0f} and "
        f"{second.int8_gop_s:.0f} int8 GOP/s: changes below {100 * floor_of(a, b, MEMORY):.0f} % in quantities bounded "
        f"by memory (decoding, loading, the head) and {100 * floor_of(a, b, ARITHMETIC):.0f} % in others are ignored.",
        "",
    ]
    claimed = [change for change in changes if change.verdict in ("faster", "slower")]
    if claimed:
        lines += ["| | before ms | after ms | change | |", "|---|--:|--:|--:|---|"]
        for change in sorted(claimed, key=lambda change: -abs(change.after - change.before)):
            old = f"{change.before:.3f} ± {change.before_spread:.3f}"
            new = f"{change.after:.3f} ± {change.after_spread:.3f}"
            lines.append(f"| {change.name} | {old} | {new} | {100 * change.relative:+.1f} % | {change.verdict} |")
        lines.append("")
    few = sum(change.verdict == "too few samples" for change in changes)
    lines.append(
        f"{len(claimed)} of {len(changes)} quantities changed beyond the noise"
        + (f"; {few} had too few samples to tell." if few else ".")
    )
    return "\n".join(lines) + "\n"
