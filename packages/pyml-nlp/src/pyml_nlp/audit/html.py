"""The report as one HTML page without external resources: no network, no library. ``page.js`` draws the charts."""

from __future__ import annotations

import json
import statistics
from html import escape
from importlib.resources import files
from typing import Any

from .analyse import SLOW, Analysis, curve
from .conclusions import NOTHING, Conclusion
from .measurements import GROUPS, Measurements
from .sections import Cell, Section, Shown, SummaryTile, Table, sections, summary, summary_tiles, title

CAPTIONS = {
    "components": "Parts of attention: share of attention's time in each phase",
    "groups": "The whole model: share of the time in operations in each phase",
    "scaling": "Time over tokens, both logarithmic; the exponents are those of the longest three lengths",
    "roofline": "Operations under the roof, both axes logarithmic",
    "jitter": "Decode steps one by one",
    "heatmap": "Milliseconds of each operation, layers downwards (stronger is longer, square root scale)",
    "timeline": "One decode step from left to right: step, blocks, branches, operations, phases",
}
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def html(m: Measurements, a: Analysis) -> str:
    """Return the whole page."""
    body = "\n".join(_section(section) for section in sections(m, a))
    data = json.dumps(_data(m, a), separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{escape(title(m))}</title>
<style>
{_source("page.css")}</style>
</head>
<body>
<main>
<h1>{escape(title(m))}</h1>
<p class="summary">{escape(summary(m, a))}</p>
<dl class="tiles">{"".join(map(_tile, summary_tiles(m, a)))}</dl>
{body}
</main>
<script type="application/json" id="data">{data}</script>
<script>
{_source("page.js")}</script>
</body>
</html>
"""


def _source(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


def _tile(one: SummaryTile) -> str:
    return f"<div><dt>{escape(one.label)}</dt><dd><strong>{escape(one.value)}</strong>{escape(one.note)}</dd></div>"


def _section(section: Section) -> str:
    blocks = [f"<h2>{escape(section.title)}</h2>"]
    if section.conclusions:
        blocks.append(f'<ol class="conclusions">{"".join(map(_conclusion, section.conclusions))}</ol>')
    blocks += [f"<p>{escape(text)}</p>" for text in section.text]
    blocks += [
        f'<figure data-chart="{chart}"><figcaption>{escape(CAPTIONS[chart])}</figcaption></figure>'
        for chart in section.charts
    ]
    blocks += [_table(table) for table in section.tables]
    return f"<section>{''.join(blocks)}</section>"


def _conclusion(conclusion: Conclusion) -> str:
    kind = " nothing" if conclusion.recommendation.startswith(NOTHING) else ""
    return (
        f"<li><strong>{escape(conclusion.title)}.</strong> {escape(conclusion.text)} "
        f'<span class="recommendation{kind}">{escape(conclusion.recommendation)}</span></li>'
    )


def _table(table: Table) -> str:
    kinds = [' class="number"' if table.is_numeric(column) else "" for column in range(len(table.columns))]
    head = "".join(
        f'<th scope="col"{kind}><button type="button">{escape(name)}</button></th>'
        for name, kind in zip(table.columns, kinds, strict=True)
    )
    rows = "".join(
        f"<tr>{''.join(_cell(table, cell, kind) for cell, kind in zip(row, kinds, strict=True))}</tr>"
        for row in table.rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _cell(table: Table, cell: Cell, kind: str) -> str:
    number = cell.value if isinstance(cell, Shown) else cell
    value = "" if isinstance(number, str) else f' data-value="{number:.9g}"'
    return f"<td{kind}{value}>{escape(table.text(cell))}</td>"


def _data(m: Measurements, a: Analysis) -> dict[str, Any]:
    """Return the data of the charts."""
    prefill, decode = m.point("prefill", m.reference), m.point("decode", m.reference)

    def both(first: dict[str, list[float]], second: dict[str, list[float]]) -> list[list[Any]]:
        names = [name for name in first if name in second]
        return [
            [name, _number(statistics.median(first[name])), _number(statistics.median(second[name]))] for name in names
        ]

    return {
        "tokens": m.reference,
        "parts": both(prefill.parts_ms, decode.parts_ms),
        "groups": both(prefill.groups_ms, decode.groups_ms),
        "scaling": {phase: _lines(m, a, phase) for phase in ("prefill", "decode")},
        "crossing": None if a.crossing is None else _number(a.crossing.tokens),
        "roofline": {
            "limits": {
                "read": _number(a.limits.read_gb_s),
                "int8": _number(a.limits.int8_gop_s),
                "f32": _number(a.limits.f32_gflop_s),
            },
            "points": [
                {
                    "phase": phase, "name": p.name, "ms": _number(p.ms), "gop_s": _number(p.gop_s),
                    "intensity": _number(p.intensity), "share": _number(p.share),
                }
                for phase, positions in a.roofline.items()
                for p in positions
            ],
        },
        "jitter": {
            "steps": [
                {
                    "ms": _number(step.ms),
                    "slow": step.ms > SLOW * a.jitter.median,
                    "note": f", {step.minor_faults} page faults, {step.involuntary_switches} involuntary switches"
                    + (", new cache page" if step.new_page else ""),
                }
                for step in m.steps
            ],
            "lines": [
                [name, _number(value)]
                for name, value in (("median", a.jitter.median), ("p95", a.jitter.p95), ("p99", a.jitter.p99))
            ],
        },
        "heatmap": m.layer_heatmap,
        "timeline": [[span.depth, span.name, span.start_us, span.us] for span in m.timeline],
    }  # fmt: skip


def _lines(m: Measurements, a: Analysis, phase: str) -> list[dict[str, Any]]:
    points = [point for point in m.sweep if point.kind == phase]
    lines = []
    for name in GROUPS:
        values = curve(points, [name])
        fit = a.fits[phase].get(f"{name} (longest)")
        if values:
            exponent = None if fit is None else _number(fit.exponent)
            lines.append({"name": name, "points": [[n, _number(ms)] for n, ms in values.items()], "exponent": exponent})
    return lines


def _number(value: float) -> float:
    return float(f"{value:.6g}")
