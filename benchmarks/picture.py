"""A small SVG plot of curves for Markdown, with logarithmic axes, readable on light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Mapping

WIDTH, HEIGHT = 760, 380
LEFT, RIGHT, TOP, BOTTOM = 60, 600, 20, 335
COLORS = ("#2563eb", "#d97706", "#16a34a", "#9333ea", "#0e7490", "#be185d")
GREY = "#8a8f98"


def lines_svg(curves: Mapping[str, Mapping[int, float]], levels: Mapping[str, float]) -> str:
    """Plot milliseconds of a prompt token over the length of the prompt, with a dashed line for a decoded token."""
    lengths = [length for curve in curves.values() for length in curve]
    values = [*levels.values(), *(ms for curve in curves.values() for ms in curve.values())]

    def x(length: float) -> float:
        return _place(length, min(lengths), max(lengths), LEFT, RIGHT)

    def y(ms: float) -> float:
        return _place(ms, min(values) / 1.2, max(values) * 1.2, BOTTOM, TOP)

    parts = [_text(LEFT, 12, "ms a token"), _text(RIGHT, BOTTOM + 36, "tokens of the prompt", "end")]
    for power in range(math.ceil(math.log10(min(values) / 1.2)), math.floor(math.log10(max(values) * 1.2)) + 1):
        at = y(10.0**power)
        parts += [_line(LEFT, at, RIGHT, at, GREY, 0.4), _text(LEFT - 6, at + 4, f"{10.0**power:g}", "end")]
    for power in range(math.ceil(math.log2(min(lengths))), math.floor(math.log2(max(lengths))) + 1, 2):
        at = x(2.0**power)
        parts += [_line(at, TOP, at, BOTTOM, GREY, 0.4), _text(at, BOTTOM + 16, str(2**power), "middle")]
    names: list[tuple[float, str, str]] = []
    for color, (name, curve) in zip(COLORS, curves.items(), strict=False):
        points = " ".join(f"{x(length):.1f},{y(ms):.1f}" for length, ms in sorted(curve.items()))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts.append(_line(LEFT, y(levels[name]), RIGHT, y(levels[name]), color, 1.2, "6 4"))
        names += [(y(curve[max(curve)]), name, color), (y(levels[name]), f"{name}, decode", color)]
    last = -math.inf
    for at, name, color in sorted(names):
        last = max(at + 4, last + 14)  # names must not overlap
        parts.append(_text(RIGHT + 6, last, name, color=color))
    font = 'font-family="system-ui, sans-serif" font-size="12"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" {font}>'
    return "\n".join([head, *parts, "</svg>"]) + "\n"


def _place(value: float, low: float, high: float, start: float, stop: float) -> float:
    return start + (math.log(value) - math.log(low)) / (math.log(high) - math.log(low)) * (stop - start)


def _line(x1: float, y1: float, x2: float, y2: float, color: str, width: float, dashes: str = "") -> str:
    style = f' stroke-dasharray="{dashes}"' if dashes else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}" '
        f'stroke-width="{width}"{style}/>'
    )


def _text(x: float, y: float, text: str, anchor: str = "start", color: str = GREY) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{color}">{text}</text>'
