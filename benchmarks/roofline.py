"""The roofline of the operations of real models: arithmetic operations a second against operations a byte.

    python benchmarks/roofline.py --models gemma3-270m smollm2-135m --json roofline.json --svg roofline.svg

Times come from traces of the kernels that really run: a prefill of 512 tokens, and decode steps; medians. The roof is
measured in the same run. Run it with the interpreter that has pyml.

Source: Williams, Waterman and Patterson 2009, "Roofline", doi 10.1145/1498765.1498785.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import pyml_nlp
from models import NAMES, Files
from pyml_core import cpu
from pyml_core.limits import measure_limits
from pyml_nlp.language_model import LanguageModel

MODELS = ("gemma3-270m", "smollm2-135m", "gemma3-1b-q8_0")
PREFILL, STEPS = 512, 16
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 860, 520, 70, 210, 24, 52
COLOURS = ("#2563eb", "#d97706", "#059669", "#db2777", "#7c3aed")
SHARE = 0.01  # operations with a smaller fraction of a phase's time are left out


def points(name: str, lm: LanguageModel) -> list[dict[str, Any]]:
    """Return the operations of a model by kind, summed over layers: their arithmetic, bytes and time."""
    found = []
    ids = [(7 * i) % (lm.vocab_size - 300) + 200 for i in range(PREFILL + STEPS + 1)]
    cache = lm.new_cache()
    lm.forward([(lm.new_cache(), ids[:PREFILL], None)])
    for phase, parts in (("prefill", [ids[:PREFILL]]), ("decode", [[token] for token in ids[PREFILL:-1]])):
        sums: dict[str, list[dict[str, float]]] = defaultdict(list)
        for part in parts:
            with lm.trace() as trace:
                lm.forward([(cache, part, None)])
            step: dict[str, dict[str, float]] = defaultdict(lambda: dict.fromkeys(("ms", "bytes", "flops"), 0.0))
            for event in trace.events:
                kind = kind_of(event.name)
                if kind is not None and event.flops:
                    for key in ("ms", "bytes", "flops"):
                        step[kind][key] += getattr(event, key)
            for kind, total in step.items():
                sums[kind].append(total)
        medians = {kind: {key: median(one[key] for one in all_) for key in all_[0]} for kind, all_ in sums.items()}
        whole = sum(total["ms"] for total in medians.values())
        for kind, total in medians.items():
            if total["ms"] > SHARE * whole:
                found.append({"model": name, "phase": phase, "operation": kind, **total})
    return found


def kind_of(name: str) -> str | None:
    """``layers.3.attention.qkv`` -> ``qkv``: the matrix products, attention as a whole, and the head."""
    parts = name.split(".")
    if parts[0] == "head":
        return "head"
    if parts[0] != "layers" or parts[-1] not in ("qkv", "out", "gate_up", "up", "down", "attend"):
        return None
    return parts[-1]


def svg(report: dict[str, Any]) -> str:
    """The plot."""
    limits, marks = report["limits"], report["points"]
    read, peaks = limits["read_gb_s"], {"int8": limits["int8_gop_s"], "f32": limits["f32_gflop_s"]}
    xs = [mark["flops"] / mark["bytes"] for mark in marks]
    ys = [mark["flops"] / mark["ms"] / 1e6 for mark in marks]
    x_low, x_high = 10 ** math.floor(math.log10(min([*xs, 1.0]))), 10 ** math.ceil(math.log10(max([*xs, 1000.0])))
    y_low, y_high = (
        10 ** math.floor(math.log10(min([*ys, 10.0]))),
        10 ** math.ceil(math.log10(max([*ys, *peaks.values()]))),
    )

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log(value / x_low) / math.log(x_high / x_low)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * math.log(value / y_low) / math.log(y_high / y_low)

    names = sorted({mark["model"] for mark in marks}, key=[mark["model"] for mark in marks].index)
    colour = dict(zip(names, COLOURS * len(names), strict=False))
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
    ]
    out += _grid(x, y, (x_low, x_high), (y_low, y_high))
    for name, peak in peaks.items():
        knee = peak / read
        out.append(
            f'<path d="M{x(x_low):.1f},{y(max(read * x_low, y_low)):.1f} L{x(knee):.1f},{y(peak):.1f} '
            f'L{x(x_high):.1f},{y(peak):.1f}" fill="none" stroke="#334155" stroke-width="2"/>'
        )
        out.append(
            f'<text x="{x(x_high) - 4:.1f}" y="{y(peak) - 6:.1f}" text-anchor="end">{name} {peak:.0f} GOP/s</text>'
        )
    out.append(f'<text x="{x(x_low) + 8:.1f}" y="{y(max(read * x_low, y_low)) - 64:.1f}">read {read:.0f} GB/s</text>')
    for mark, at, rate in zip(marks, xs, ys, strict=True):
        title = (
            f"<title>{mark['model']} {mark['phase']} {mark['operation']}: {at:.1f} operations a byte, {rate:.0f} "
            f"GOP/s, {mark['bytes'] / mark['ms'] / 1e6:.1f} GB/s, {mark['ms']:.3f} ms</title>"
        )
        fill = colour[mark["model"]] if mark["phase"] == "prefill" else "#ffffff"
        out.append(
            f'<circle cx="{x(at):.1f}" cy="{y(rate):.1f}" r="5" fill="{fill}" stroke="{colour[mark["model"]]}" '
            f'stroke-width="2">{title}</circle>'
        )
    out += _labels(marks, [(x(at), y(rate)) for at, rate in zip(xs, ys, strict=True)])
    for row, name in enumerate(names):
        top = TOP + 20 + 22 * row
        out.append(f'<circle cx="{WIDTH - RIGHT + 24}" cy="{top - 4}" r="5" fill="{colour[name]}"/>')
        out.append(f'<text x="{WIDTH - RIGHT + 36}" y="{top}">{name}</text>')
    below = TOP + 34 + 22 * len(names)
    out.append(f'<text x="{WIDTH - RIGHT + 18}" y="{below}">filled: prefill of {PREFILL}</text>')
    out.append(f'<text x="{WIDTH - RIGHT + 18}" y="{below + 18}">hollow: a decode step</text>')
    return "\n".join([*out, "</svg>"]) + "\n"


def _labels(marks: list[dict[str, Any]], places: list[tuple[float, float]]) -> list[str]:
    """Return the names next to the marks; a name that would cover another is only in its tooltip."""
    out: list[str] = []
    taken: list[tuple[float, float]] = []
    for mark, (left, top) in zip(marks, places, strict=True):
        if any(abs(left - other) < 52 and abs(top - above) < 12 for other, above in taken):
            continue
        taken.append((left, top))
        out.append(
            f'<text x="{left + 8:.1f}" y="{top + 4:.1f}" font-size="11" fill="#475569">{mark["operation"]}</text>'
        )
    return out


def _grid(
    x: Callable[[float], float], y: Callable[[float], float], xs: tuple[float, float], ys: tuple[float, float]
) -> list[str]:
    """Return grid lines for decades, their labels, and the titles of the axes."""
    out = []
    for exponent in range(round(math.log10(xs[0])), round(math.log10(xs[1])) + 1):
        at = x(10.0**exponent)
        out.append(f'<path d="M{at:.1f},{y(ys[0]):.1f} V{y(ys[1]):.1f}" stroke="#e2e8f0"/>')
        out.append(f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{10.0**exponent:g}</text>')
    for exponent in range(round(math.log10(ys[0])), round(math.log10(ys[1])) + 1):
        at = y(10.0**exponent)
        out.append(f'<path d="M{x(xs[0]):.1f},{at:.1f} H{x(xs[1]):.1f}" stroke="#e2e8f0"/>')
        out.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{10.0**exponent:g}</text>')
    middle = (x(xs[0]) + x(xs[1])) / 2
    out.append(f'<text x="{middle:.1f}" y="{HEIGHT - 12}" text-anchor="middle">operations a byte moved</text>')
    height = (y(ys[0]) + y(ys[1])) / 2
    out.append(
        f'<text transform="translate(18,{height:.1f}) rotate(-90)" text-anchor="middle">1e9 operations a second</text>'
    )
    return out


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cache = Path.home() / ".cache" / "pyml-bench"
    parser.add_argument("--models", nargs="+", default=list(MODELS), metavar="MODEL",
                        help=f"{', '.join(NAMES)} or a .gguf file")  # fmt: skip
    parser.add_argument("--threads", type=int, default=cpu.default_threads())
    parser.add_argument("--envs", type=Path, default=cache, help="folder of the environments and models")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write the plot to this file")
    options = parser.parse_args(arguments)
    report: dict[str, Any] = {"limits": asdict(measure_limits(options.threads)), "points": []}
    for name in options.models:
        files = Files(name, options.envs / "models", options.envs)
        with pyml_nlp.load(files.gguf(), threads=options.threads) as lm:
            report["points"] += points(files.name, lm)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    if options.svg:
        options.svg.write_text(svg(report))


if __name__ == "__main__":
    main()
