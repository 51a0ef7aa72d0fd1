"""The tables of the comparison of servers."""

from __future__ import annotations

from statistics import median
from typing import Any

Results = list[dict[str, Any]]

TITLES = {
    "chat": "Short chats, {size:g} clients",
    "prefix": "A shared prefix of 1 000 tokens, {size:g} clients",
    "mixed": "{size:g} streams, and a long prompt every 2 s",
    "overload": "Short chats offered at {size:g} times the capacity",
}
COLUMNS = (
    "server", "tokens/s", "requests/s", "goodput", "TTFT p50", "p95", "p99", "gap p50", "p95", "p99", "max",
    "tokens an event", "CPU s per 1 000 tokens", "peak MiB", "errors",
)  # fmt: skip


def markdown(found: dict[str, Any]) -> str:
    """All results as Markdown: medians over the rounds, with the lowest and highest of the rates."""
    machine = found["machine"]
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores; {found['threads']} threads, {found['places']} places of "
        f"{found['context']} positions, temperature {found['temperature']:g}, {found['seconds']:.1f} s a load. "
        "Times in ms.",
        "",
    ]
    results: Results = found["results"]
    for model in dict.fromkeys(one["model"] for one in results):
        own = [one for one in results if one["model"] == model]
        for load, size in dict.fromkeys((one["load"], one["size"]) for one in own):
            same = [one for one in own if (one["load"], one["size"]) == (load, size)]
            lines += {"batch": _batch, "empty": _empty}.get(load, _table)(model, same) + [""]
    differing = sum(one.get("differing", 0) for one in results)
    lines.append(f"Texts of pyml that differ from those of a run alone: {differing}.")
    lines += [f"{name}: {error}" for name, error in found["errors"].items()]
    return "\n".join(lines) + "\n"


def _table(model: str, results: Results) -> list[str]:
    title = TITLES[results[0]["load"]].format(size=results[0]["size"])
    lines = [f"**{model}: {title}**", "", f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for server in dict.fromkeys(one["server"] for one in results):
        own = [one for one in results if one["server"] == server]
        times = [_ms(own, "ttft", part) for part in ("p50", "p95", "p99")]
        times += [_ms(own, "gap", part) for part in ("p50", "p95", "p99", "max")]
        cells = [
            server, _rate(own, "tokens_per_second", 0), _rate(own, "requests_per_second", 1), _rate(own, "goodput", 1),
            *times, _middle(own, "tokens_per_event", 2), _middle(own, "cpu_per_1000", 2), _middle(own, "peak_mib", 0),
            str(sum(one["errors"] for one in own)),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    others = {server: _ms([one for one in results if one["server"] == server], "other_ttft", "p50") for server in
              dict.fromkeys(one["server"] for one in results)}  # fmt: skip
    if results[0]["load"] == "mixed":
        lines += ["", "TTFT of the long prompts: " + ", ".join(f"{name} {time} ms" for name, time in others.items())]
    return lines


def _batch(model: str, results: Results) -> list[str]:
    clients = results[0]["size"]
    ratio, http, direct = (_rate(results, name, 2 if name == "ratio" else 0) for name in ("ratio", "http", "direct"))
    return [
        f"**{model}: {clients:g} texts at a time through HTTP / generate_batch**: {ratio} ({http} / {direct} tokens/s)"
    ]


def _empty(model: str, results: Results) -> list[str]:
    names = ("health", "one_token", "submit", "beyond")
    health, one, alone, beyond = (_rate(results, name, 2) for name in names)
    return [
        f"**{model}: requests without work**: /health {health} ms; a completion of one token {one} ms, "
        f"`submit` {alone} ms, difference {beyond} ms"
    ]


def _values(results: Results, name: str) -> list[float]:
    return [one[name] for one in results if one.get(name) is not None]


def _middle(results: Results, name: str, digits: int) -> str:
    values = _values(results, name)
    return f"{median(values):.{digits}f}" if values else "-"


def _rate(results: Results, name: str, digits: int) -> str:
    values = _values(results, name)
    if len(values) < 2:
        return _middle(results, name, digits)
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} .. {max(values):.{digits}f})"


def _ms(results: Results, name: str, part: str) -> str:
    values = [one[name][part] for one in results if one.get(name)]
    return f"{median(values):.0f}" if values else "-"
