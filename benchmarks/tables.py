"""Markdown tables of a comparison, from its JSON."""

from __future__ import annotations

from statistics import median
from typing import Any

from engines import CONTESTS, PROJECT
from peers.protocol import NOT_OFFERED

AVX2 = ("pyml-avx2", "llama.cpp-avx2")


def markdown(report: dict[str, Any]) -> str:
    """Return a section for each model: tables of speed and cold starts, settings, versions and limits."""
    lines = [
        f"{report['machine']['cpu']}, {report['machine']['cores']} cores, {report['threads']} threads, "
        f"{report['rounds']} rounds, {report['date']}. Tokens a second: median (lowest-highest) of the rounds; the "
        "best peer is bold; a ratio is the median over the rounds of pyml / best peer.",
    ]
    for entry in report["models"]:
        lines += ["", f"### {entry['model']}", "", *speeds(report, entry)]
        lines += cold_starts(report, entry["model"])
        lines += ["", *notes(report, entry)]
    for row in report.get("scaled", []):
        few, many = row["layers"]
        speeds_of = ", ".join(f"{name} {speed:.1f}" for name, speed in row["tokens_per_s"].items())
        lines += ["", f"{row['model']}, {row['test']}, scaled from {few} and {many} layers to all {row['of']}: "
                  f"{speeds_of} tokens a second."]  # fmt: skip
    return "\n".join(lines) + "\n"


def rows_of(report: dict[str, Any], model: str) -> list[dict[str, Any]]:
    """Return the results on one model."""
    return [row for row in report["results"] if row["model"] == model]


def speeds(report: dict[str, Any], entry: dict[str, Any]) -> list[str]:
    """Return tokens a second of all engines; the two for AVX2 have a separate table."""
    names = list(entry["engines"])
    rows = rows_of(report, entry["model"])
    quality: dict[str, Any] = {}
    for found in report.get("quality", []):
        if found["model"] == entry["model"]:
            quality = found["engines"]
    if not rows and not quality:
        return []
    lines = _table(rows, [name for name in names if name not in AVX2], quality)
    if narrow := [name for name in AVX2 if name in names]:
        lines += ["", "Without AVX-512 and VNNI, pyml capped by `PYML_CPU_LEVEL=avx2`:", ""]
        lines += _table(rows, narrow, quality)
    if quality:
        lines += ["", f"KL divergence from, and top-1 agreement with, the same weights in f32: {report['text']}, "
                  f"{report['quality_positions']} positions."]  # fmt: skip
    return lines


def _table(rows: list[dict[str, Any]], names: list[str], quality: dict[str, Any]) -> list[str]:
    ours = [name for name in names if name in CONTESTS and any(name in row["ratios"] for row in rows)]
    titles = [*names, *(f"{name} / best" for name in ours)]
    shared = PROJECT in names and any(row["read_bandwidth_share"] for row in rows)
    titles += ["of plain read"] if shared else []
    lines = ["| test | " + " | ".join(titles) + " |", "|---|" + "---:|" * len(titles)]
    for row in rows:
        cells = [_cell(row, name) for name in names]
        for name in ours:
            cells.append(f"{row['ratios'][name]['ratio']:.2f}x" if name in row["ratios"] else "")
        if shared:
            share = row["read_bandwidth_share"]
            cells.append("" if share is None else f"{share:.0%}")
        lines.append(f"| {row['test']} | " + " | ".join(cells) + " |")
    rest = " |" * (len(titles) - len(names) + 1)
    if any(name in quality for name in names):
        for title, field, form in (("mean KL divergence", "kld", ".2e"), ("same top-1", "same_top", ".2%")):
            cells = [_figure(quality.get(name, {}), field, form) for name in names]
            lines.append(f"| {title} | " + " | ".join(cells) + rest)
    return lines


def _figure(found: dict[str, Any], field: str, form: str) -> str:
    return format(found[field], form) if field in found else _failure(found.get("error"))


def _failure(error: str | None) -> str:
    """The cell of an engine that has no figure."""
    if not error:
        return ""
    return NOT_OFFERED if error.startswith(NOT_OFFERED) else "failed"


def _cell(row: dict[str, Any], name: str) -> str:
    found = row["engines"].get(name)
    if found is None or not found["tokens_per_s"]:
        return _failure(found["error"]) if found else ""
    values = found["tokens_per_s"]
    digits = 0 if median(values) >= 100 else 1
    text = f"{median(values):.{digits}f}"
    if any(contest["best_peer"] == name for contest in row["ratios"].values()):
        text = f"**{text}**"
    return f"{text} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def cold_starts(report: dict[str, Any], model: str) -> list[str]:
    """Return time and peak memory of a new process; nothing if they were not measured."""
    lines: list[str] = []
    for row in report["cold"]:
        if row["model"] != model or not row["engines"]:
            continue
        lines += ["", "| cold start | seconds | peak MB |", "|---|---:|---:|"]
        for name, found in row["engines"].items():
            if "error" in found:
                lines.append(f"| {name} | failed | |")
                continue
            seconds = found["seconds"]
            figures = f"{found['median']:.2f} ({min(seconds):.2f}-{max(seconds):.2f})"
            lines.append(f"| {name} | {figures} | {found['peak_mb']:.0f} |")
    return lines


def notes(report: dict[str, Any], entry: dict[str, Any]) -> list[str]:
    """Return versions, settings and limits."""
    lines = []
    rows = rows_of(report, entry["model"])
    for engine, about in entry["engines"].items():
        chosen = {row["test"]: row["engines"].get(engine, {}).get("setting") for row in rows}
        used = {test: setting for test, setting in chosen.items() if setting not in (None, "default")}
        setting = "; settings " + ", ".join(f"{test}: {name}" for test, name in used.items()) if used else ""
        lines.append(f"- {engine}: {about['version']}; {about['note']}{setting}")
    lines += [f"- {name} is left out: {reason}" for name, reason in entry["left_out"].items()]
    for row in rows:
        for name, found in row["engines"].items():
            if found["error"]:
                lines.append(f"- {row['test']}, {name}: {found['error']}")
    for found in report.get("quality", []):
        if found["model"] == entry["model"]:
            lines += [f"- quality, {name}: {one['error']}" for name, one in found["engines"].items() if "error" in one]
    lines.append(f"- machine, during the run: {limits_line(entry['limits'])}")
    return lines


def limits_line(limits: list[dict[str, float]]) -> str:
    """Return median, lowest and highest of each limit."""
    units = {
        "read_gb_per_s": "plain read {} GB/s",
        "int8_gop_per_s": "int8 {} GOP/s",
        "f32_gflop_per_s": "f32 {} GFLOP/s",
        "load": "load average {}",
    }
    parts = []
    for key, text in units.items():
        values = [entry[key] for entry in limits if entry.get(key)]
        if values:
            digits = 1 if max(values) < 100 else 0
            figures = f"{median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"
            parts.append(text.format(figures))
    return ", ".join(parts)
