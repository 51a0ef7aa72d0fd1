"""Conclusions from the numbers in sentences, each with a recommendation, and the thresholds that choose them."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from .analyse import CLOCK, FIRST_TOUCH, NEW_PAGE, SCHEDULER, UNKNOWN, Analysis, Position
from .curves import MAX_EXTRAPOLATION, Crossing
from .measurements import GROUPS, LINEAR, SQUARE, Measurements, SweepPoint

NEAR_ROOF = 0.7  # an operation that reaches this share of its roof needs no faster kernel
COLD = 1.3  # a first run that takes more than this multiple of a warm one is slow
BATCHED = 2.0  # batching pays if a decoded token takes at least this multiple of a prompt token
WAITING = 0.15  # share of the threads' waiting time that is reported as a problem
UNSTEADY = 1.25  # ratio of p99 to the median that is reported as a problem
FASTER = 1.05  # an option that is this many times as fast is recommended
ABOVE_ROOF = 1.05  # arithmetic above this share of its roof shows that the roof was measured too low
CHANGING = 0.15  # variation of the machine's own limits within one audit that is reported as a problem
NOTHING = "No optimisation needed."


@dataclass(frozen=True)
class Conclusion:
    """A conclusion of a sentence or two, and a recommendation."""

    title: str
    text: str
    recommendation: str


def conclusions(m: Measurements, a: Analysis) -> list[Conclusion]:
    """Return all conclusions, the most important first."""
    return [*_machine(a), *_roofs(a), *_options(m), *_decode_limit(m, a), *_screen(m), _prefill_limit(m, a),
            _efficiency(m, a), _cold(m, a), _crossing(m, a), *_threads(m, a), _jitter(m, a), _cache(m, a)]  # fmt: skip


def ms(value: float) -> str:
    """Format milliseconds with three significant digits."""
    return f"{value:.3f} ms" if value < 1 else f"{value:.2f} ms" if value < 100 else f"{value:.0f} ms"


def size(count: float) -> str:
    """Format a number of bytes with a unit."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count:.0f} B"


def percent(share: float) -> str:
    """Format a share of 1 in percent."""
    return f"{100 * share:.0f} %"


def share_of_groups(point: SweepPoint) -> dict[str, float]:
    """Return each group's share of the time in operations, by medians."""
    medians = {group: statistics.median(point.groups_ms[group]) for group in GROUPS}
    total = sum(medians.values()) or 1.0
    return {group: value / total for group, value in medians.items()}


def worst(positions: list[Position]) -> Position:
    """Return the operation that would save the most time at its roof."""
    return max(positions, key=lambda position: position.lost_ms)


def _decode_limit(m: Measurements, a: Analysis) -> Iterator[Conclusion]:
    reached = a.decode_gb_s / a.limits.read_gb_s
    shares = share_of_groups(m.point("decode", m.reference))
    largest = max(shares, key=lambda group: shares[group])
    heavy = max(m.model.types, key=lambda name: m.model.types[name])
    text = (
        f"A decode step takes {ms(a.warm.decode_ms)} and reads {size(a.decode_bytes)}: {a.decode_gb_s:.1f} GB/s, "
        f"{percent(reached)} of the {a.limits.read_gb_s:.1f} GB/s of a plain read. The {largest} takes most of its "
        f"time ({percent(shares[largest])})."
    )
    if reached > 1.05 and a.limits_spread > CHANGING:
        yield Conclusion(
            "Decode reads faster than the measured limit of the machine",
            f"{text} Another process used the memory while the limit was measured.",
            "Repeat the audit on a quiet machine.",
        )
        return
    if reached > 1.05:
        yield Conclusion(
            "Decode runs out of the caches",
            f"{text} That is more than the memory's bandwidth: the weights ({size(m.model.weight_bytes)}) stay in the "
            "caches.",
            f"{NOTHING} Figures of a larger model will look different.",
        )
        return
    if reached >= NEAR_ROOF:
        yield Conclusion(
            "Decode is limited by memory bandwidth",
            text,
            f"{NOTHING} Only reading fewer bytes makes it faster: a smaller block type than {heavy} "
            f"({size(m.model.types[heavy])} of the weights), several sequences decoded together.",
        )
        return
    slow = worst(a.roofline["decode"])
    yield Conclusion(
        "Decode does not reach the memory's bandwidth",
        f"{text} {slow.name} loses most: {ms(slow.ms)} at {percent(slow.share)} of its roof, {ms(slow.lost_ms)} above "
        "it.",
        f"Look at {slow.name} first; at its roof a step would take {ms(max(0.0, a.warm.decode_ms - slow.lost_ms))}.",
    )


def _screen(m: Measurements) -> Iterator[Conclusion]:
    if not m.screened_ms:
        return
    full, screened = statistics.median(m.full_ms), statistics.median(m.screened_ms)
    text = (
        f"In a text, a step that needs only the largest logits takes {ms(screened)} where one with all of them takes "
        f"{ms(full)}: {full / screened:.2f} times as fast, with identical tokens."
    )
    if full > 1.1 * screened:
        yield Conclusion(
            "Screening the head pays",
            text,
            f"{NOTHING} Most rules of sampling do it; typical-p, log probabilities and grammars need all logits.",
        )
    elif full > screened:
        yield Conclusion("Screening the head gains little", text, NOTHING)
    else:
        yield Conclusion("Screening the head does not pay", text, "Load the model with --full-head.")


def _prefill_limit(m: Measurements, a: Analysis) -> Conclusion:
    point, roofs = m.point("prefill", m.reference), a.roofs["prefill"]
    quantized = sum(op.flops for op in point.operations if op.quantized) * 2 > sum(op.flops for op in point.operations)
    peak, name = (a.limits.int8_gop_s, "int8") if quantized else (a.limits.f32_gflop_s, "f32")
    shares = share_of_groups(point)
    ranked = sorted(shares, key=lambda group: -shares[group])
    slow = worst(a.roofline["prefill"])
    text = (
        f"A prompt of {m.reference} tokens takes {ms(a.warm.prefill_ms)}: {a.prefill_gop_s:.0f} GOP/s, "
        f"{percent(a.prefill_gop_s / peak)} of the {name} peak of {peak:.0f}. Its time goes to {ranked[0]} "
        f"({percent(shares[ranked[0]])}) and {ranked[1]} ({percent(shares[ranked[1]])}). Each operation at its own "
        f"roof, memory or arithmetic, would take {percent(roofs.share)} of that time; {slow.name} loses most: "
        f"{ms(slow.ms)} at {percent(slow.share)} of its roof ({slow.bound})."
    )
    if too_low(a) is not None:
        text = (
            f"A prompt of {m.reference} tokens takes {ms(a.warm.prefill_ms)}: {a.prefill_gop_s:.0f} GOP/s. Its time "
            f"goes to {ranked[0]} ({percent(shares[ranked[0]])}) and {ranked[1]} ({percent(shares[ranked[1]])})."
        )
        return Conclusion("Prefill cannot be compared with its roofs", text, "Repeat the audit on a quiet machine.")
    if roofs.share >= NEAR_ROOF:
        return Conclusion(
            f"Prefill is limited by {'arithmetic' if roofs.bound == 'arithmetic' else 'memory bandwidth'}",
            text,
            f"{NOTHING} {slow.name} could save at most {percent(slow.lost_ms / a.warm.prefill_ms)}.",
        )
    return Conclusion(
        "Prefill stays below its roofs",
        text,
        f"Look at {slow.name} first; at its roof the prompt would take "
        f"{ms(max(0.0, a.warm.prefill_ms - slow.lost_ms))}.",
    )


def _efficiency(m: Measurements, a: Analysis) -> Conclusion:
    gain = a.warm.gain
    text = (
        f"Warm, a prompt token takes {ms(a.warm.per_token_ms)} and a decoded one {ms(a.warm.decode_ms)}: {gain:.1f} "
        f"times as long. The reason: a decode step reads {size(a.decode_bytes)} for its one token, a prefill of "
        f"{m.reference} tokens {size(a.prefill_bytes / m.reference)} a token, since all of them share each weight that "
        f"is read. That makes {a.roofs['decode'].intensity:.1f} and {a.roofs['prefill'].intensity:.0f} operations a "
        f"byte, where this machine's arithmetic keeps up with its memory at {_ridge(m, a):.0f}. Cold, it is "
        f"{ms(a.cold.per_token_ms)} and {ms(a.cold.decode_ms)}."
    )
    if gain >= BATCHED:
        return Conclusion(f"A prompt token is {gain:.0f} times cheaper than a decoded one", text, NOTHING)
    if gain >= 1:
        return Conclusion(
            "Prefill gains little from its many tokens",
            text,
            "Each weight is read once for all tokens, so more is possible: see the arithmetic of prefill.",
        )
    return Conclusion(
        "A prompt token is more expensive than a decoded one",
        text,
        "Some work is done token by token: look at the largest operation.",
    )


def _ridge(m: Measurements, a: Analysis) -> float:
    """Return the operations per byte above which arithmetic is the limit, for the arithmetic that dominates decode."""
    operations = m.point("decode", m.reference).operations
    quantized = 2 * sum(op.flops for op in operations if op.quantized) > sum(op.flops for op in operations)
    return (a.limits.int8_gop_s if quantized else a.limits.f32_gflop_s) / a.limits.read_gb_s


def _cold(m: Measurements, a: Analysis) -> Conclusion:
    prefill, decode = a.cold.prefill_ms / a.warm.prefill_ms, a.cold.decode_ms / a.warm.decode_ms
    faults = statistics.median([run.minor_faults for run in m.cold_runs("prefill")])
    load = statistics.median([run.load_ms for run in m.cold])
    text = (
        f"The very first prefill of a process takes {prefill:.2f} times a warm one, the very first decode step "
        f"{decode:.2f} times; {faults:.0f} pages are touched for the first time in that prefill. Loading takes "
        f"{ms(load)}."
    )
    if max(prefill, decode) < COLD:
        return Conclusion("Cold runs cost little more than warm ones", text, NOTHING)
    return Conclusion(
        "Cold runs cost more than warm ones",
        text,
        "Never compare a first run with a later one; a server should run one short prompt before it takes requests.",
    )


def where(crossing: Crossing) -> str:
    """Format a crossing for a sentence."""
    how = "measured" if crossing.measured else "by extrapolation"
    return f"about {rounded(crossing.tokens)} tokens ({how})"


def rounded(tokens: float) -> int:
    """Round a length to two significant digits, the precision of a crossing."""
    return int(float(f"{tokens:.2g}"))


def _crossing(m: Measurements, a: Analysis) -> Conclusion:
    fits = a.fits["prefill"]
    grow = ""
    if LINEAR in fits and SQUARE in fits:
        square, linear = fits[f"{SQUARE} (longest)"], fits[f"{LINEAR} (longest)"]
        grow = (
            f"Over the longest prompts QK^T, softmax and A*V grow as tokens^{square.exponent:.2f}, the linear parts "
            f"of attention as tokens^{linear.exponent:.2f}."
        )
    windowed = [window for window in m.model.windows if window]
    if windowed:
        grow += f" {len(windowed)} of {m.model.n_layers} layers see {max(windowed)} positions at most: linear beyond."
    longest = max(point.length for point in m.sweep)
    inside, whole = a.crossing, a.crossing_model
    if inside is None:
        text = (
            f"{grow} Up to {longest} tokens the linear parts take more; the curves do not cross within "
            f"{MAX_EXTRAPOLATION} times this length."
        )
        return Conclusion("Quadratic attention does not dominate", text.strip(), NOTHING)
    text = f"{grow} They take more than attention's linear parts from {where(inside)} on"
    text += f", and more than all the rest of the model from {where(whole)} on." if whole else "."
    if whole is not None and whole.measured:
        return Conclusion(
            "Long prompts are dominated by quadratic attention",
            text.strip(),
            "For prompts of that length work on the attention kernel pays before work on matrix products.",
        )
    return Conclusion(
        "Quadratic attention matters for long prompts only",
        text.strip(),
        f"No optimisation needed for prompts below {rounded(inside.tokens)} tokens.",
    )


def _threads(m: Measurements, a: Analysis) -> Iterator[Conclusion]:
    if m.threads == 1:
        return
    prefill, decode = m.point("prefill", m.reference).waiting, m.point("decode", m.reference).waiting
    text = (
        f"The {m.threads} threads spend {percent(prefill)} of a prefill and {percent(decode)} of a decode step "
        "waiting for each other within operations."
    )
    if max(prefill, decode) < WAITING:
        yield Conclusion("The threads are evenly loaded", text, NOTHING)
    else:
        yield Conclusion(
            "Threads wait for each other",
            text,
            "Other work on the same cores causes that, and operations too small to share: measure on a quiet machine, "
            "then with fewer --threads.",
        )


ADVICE = {
    NEW_PAGE: "The cache allocates memory page by page: this cost is rare and bounded.",
    FIRST_TOUCH: "Memory is touched for the first time: this ends as the process warms up.",
    SCHEDULER: "Other processes use these cores: stop them, or use fewer threads than cores.",
    CLOCK: "The clock falls under load, or another guest shares the core: check cooling, power settings and the host.",
    UNKNOWN: "The memory bus or other guests of a hypervisor: repeat on a quiet machine before blaming the program.",
}


def _jitter(m: Measurements, a: Analysis) -> Conclusion:
    j, steps = a.jitter, len(m.steps)
    text = f"Decode steps take {ms(j.median)} (median), {ms(j.p95)} (p95), {ms(j.p99)} (p99), {ms(j.longest)} at most."
    causes = sorted(j.causes.items(), key=lambda item: -item[1])
    if causes:
        total = sum(j.causes.values())
        named = ", ".join(f"{cause} {percent(lost / total)}" for cause, lost in causes)
        text += f" Causes of the slow ones ({j.slow} of {steps}): {named}."
    if j.p99 < UNSTEADY * j.median:
        return Conclusion("Decode steps are steady", text, NOTHING)
    cause = causes[0][0]
    if cause == SCHEDULER and m.machine.suspended_ms:
        stops = f"stops a process at a real-time priority for {m.machine.suspended_ms:.0f} ms of each second"
        return Conclusion("Decode steps are unsteady", text, f"Linux {stops}: audit at a normal priority.")
    return Conclusion("Decode steps are unsteady", text, ADVICE[cause])


def _cache(m: Measurements, a: Analysis) -> Conclusion:
    share = a.kv_bytes / max(a.decode_bytes, 1)
    full = m.model.kv_token_bytes * m.model.context
    text = (
        f"A position takes {size(m.model.kv_token_bytes)} of keys and values ({m.model.kv_type}), the whole context "
        f"of {m.model.context} positions {size(full)}; the weights take {size(m.model.weight_bytes)}. After "
        f"{m.reference} tokens, keys and values are {percent(share)} of the bytes that a decode step reads."
    )
    if full < m.model.weight_bytes:
        return Conclusion("The KV cache is small", text, NOTHING)
    return Conclusion(
        "A full KV cache is larger than the weights",
        text,
        "For long sequences bound the context (--context-len), or share prefixes between sequences.",
    )


def _machine(a: Analysis) -> Iterator[Conclusion]:
    if a.limits_spread > CHANGING:
        yield Conclusion(
            "The machine itself was unsteady",
            f"Its limits, measured before and after, differ by {percent(a.limits_spread)}: another process used it.",
            "All figures of this report have that margin of error; repeat the audit on a quiet machine.",
        )


def too_low(a: Analysis) -> Position | None:
    """Return the operation that is furthest above its arithmetic roof, which was measured too low then."""
    above = [p for found in a.roofline.values() for p in found if p.bound == "arithmetic" and p.share > ABOVE_ROOF]
    return max(above, key=lambda p: p.share, default=None)


def _roofs(a: Analysis) -> Iterator[Conclusion]:
    above = too_low(a)
    if above is not None:
        yield Conclusion(
            "The peak of the arithmetic was measured too low",
            f"{above.name} runs at {percent(above.share)} of its roof, which is impossible: another process used the "
            "processors while the peak was measured.",
            "Draw no conclusions from shares of an arithmetic roof; repeat the audit on a quiet machine.",
        )


def gain(ratios: list[float]) -> float:
    """Return how many times as fast an option is by the median, or 1 if the quartiles disagree on which is faster."""
    low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else (ratios[0],) * 3
    return 1.0 if low < 1 < high else statistics.median(ratios)


def _options(m: Measurements) -> Iterator[Conclusion]:
    if not m.choices:
        return
    better: list[str] = []
    mixed: list[str] = []
    for one in m.choices:
        gains = {"prefill": gain(one.prefill), "decode": gain(one.decode)}
        changed = " and ".join(f"{name} {g:.2f}x" for name, g in gains.items() if not 1 / FASTER < g < FASTER)
        if max(gains.values()) >= FASTER:
            (better if min(gains.values()) > 1 / FASTER else mixed).append(f"{one.option} ({changed})")
    listed = ", ".join(
        f"{one.option}: {statistics.median(one.prefill):.2f}x and {statistics.median(one.decode):.2f}x"
        for one in m.choices
    )
    text = f"Speeds of prefill and decode with other options, measured in alternation: {listed}."
    if not better and not mixed:
        yield Conclusion("No other option is faster", text, "Keep the options of this audit.")
        return
    advice = [
        f"Use {', '.join(better)}." if better else "",
        f"Depends on the use: {', '.join(mixed)}." if mixed else "",
    ]
    if any("dtype" in option for option in (*better, *mixed)):
        advice.append("Another type changes the numbers: check its quality with pyml eval.")
    yield Conclusion("Other options are faster", text, " ".join(filter(None, advice)))
