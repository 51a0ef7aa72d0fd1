"""The tables of the comparison of servers."""

from __future__ import annotations

from statistics import median
from typing import Any

Results = list[dict[str, Any]]

TITLES = {
    "chat": "Short chats, {size}",
    "prefix": "A shared prefix of 1 000 tokens, {size}",
    "mixed": "{number:g} streams, and a long prompt 2 s after the answer to the one before",
    "overload": "Short chats offered at {number:g} times the capacity",
}
COLUMNS = (
    "server", "tokens/s", "requests/s", "goodput", "TTFT p50", "p95", "p99", "gap p50", "p95", "p99", "max",
    "tokens an event", "CPU s per 1 000 tokens", "peak MiB", "errors",
)  # fmt: skip
MIXED = ("server", "gap alone p50", "gap during p50", "p99", "max", "p99 / median", "p99 / alone", "long TTFT p50")
WARM = ("server", "first, ms", "again, ms", "ratio")
EIGHT = ("", "HTTP", "without", "ratio")


def markdown(found: dict[str, Any]) -> str:
    """All results as Markdown: medians over the rounds, with the lowest and highest of the rates."""
    results: Results = found["results"]
    lines = [heading(found), ""]
    for model in dict.fromkeys(one["model"] for one in results):
        own = [one for one in results if one["model"] == model]
        for load, size in dict.fromkeys((one["load"], one["size"]) for one in own):
            same = [one for one in own if (one["load"], one["size"]) == (load, size)]
            lines += [f"**{model}: {title(load, size)}**", "", *table(load, same), ""]
    return "\n".join([*lines, *ending(found)]) + "\n"


def heading(found: dict[str, Any]) -> str:
    """The machine and the options of the run."""
    machine = found["machine"]
    levels = {about["level"] for about in found["models"].values() if "level" in about}
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB"
        + "".join(f", level {level}" for level in sorted(levels))
        + f"; {found['threads']} threads, {found['places']} places of {found['context']} positions, temperature "
        f"{found['temperature']:g}, {counted(found['rounds'], 'round')}, {found['seconds']:.1f} s a load. Times in ms."
    )


def counted(number: float, noun: str) -> str:
    """A number of things, such as ``2 rounds``."""
    return f"{number:g} {noun}{'' if number == 1 else 's'}"


def ending(found: dict[str, Any]) -> list[str]:
    """What goes with all tables: settings, the machine's state, texts that differ, what failed."""
    differing = sum(one.get("differing", 0) for one in found["results"])
    lines = [f"Texts of pyml that differ from those of a run alone: {differing}."]
    for model, about in found["models"].items():
        for server, chosen in about["settings"].items():
            tried = ", ".join(f"{name} {rate:.0f}" for name, rate in chosen["tried"].items())
            lines.append(
                f"{model}, {server}: {chosen['setting']}, ready after {chosen['ready']:.2f} s"
                + (f" (trial, tokens/s: {tried})" if tried else "")
            )
    loads = [one["load_average"] for one in found["results"]]
    if loads:
        lines.append(f"Load average of the machine: {min(loads):.1f} to {max(loads):.1f}.")
    return [f"- {line}" for line in [*lines, *(f"{name}: {error}" for name, error in found["errors"].items())]]


def title(load: str, size: float) -> str:
    """What a table shows."""
    others = {
        "warm": "Time to the first text, one client: 1 000 tokens that are new, and again",
        "batch": f"{size:g} texts at once, tokens/s",
        "empty": "Requests without work",
        "cold": "Start",
    }
    return others.get(load) or TITLES[load].format(number=size, size=counted(size, "client"))


def table(load: str, results: Results) -> list[str]:
    """The lines of the results of one model and load."""
    special = {"batch": _batch, "empty": _empty, "warm": _warm, "cold": _cold}
    if load in special:
        return special[load](results)
    lines = _head(COLUMNS)
    for server, own in by_server(results).items():
        times = [_ms(own, "ttft", part) for part in ("p50", "p95", "p99")]
        times += [_ms(own, "gap", part) for part in ("p50", "p95", "p99", "max")]
        lines += _row(
            server, rate(own, "tokens_per_second", 0), rate(own, "requests_per_second", 1), rate(own, "goodput", 1),
            *times, middle(own, "tokens_per_event", 2), middle(own, "cpu_per_1000", 2), middle(own, "peak_mib", 0),
            str(sum(one["errors"] for one in own)),
        )  # fmt: skip
    if load == "mixed":
        lines += ["", *_head(MIXED)]
        for server, own in by_server(results).items():
            lines += _row(
                server, _ms(own, "gap_alone", "p50"), *(_ms(own, "gap_during", part) for part in ("p50", "p99", "max")),
                middle(own, "p99_of_median", 2), middle(own, "p99_of_alone", 2), _ms(own, "long_ttft", "p50"),
            )  # fmt: skip
    return lines


def by_server(results: Results) -> dict[str, Results]:
    """The results of each server."""
    names = dict.fromkeys(one["server"] for one in results)
    return {name: [one for one in results if one["server"] == name] for name in names}


def _warm(results: Results) -> list[str]:
    lines = _head(WARM)
    for server, own in by_server(results).items():
        lines += _row(server, rate(own, "cold", 0), rate(own, "warm", 0), rate(own, "ratio", 3))
    return lines


def _batch(results: Results) -> list[str]:
    return [
        *_head(EIGHT),
        *_row("with prompts, `generate_batch`", *(rate(results, name, 0) for name in ("http", "direct")),
              rate(results, "ratio", 2)),
        *_row("after prompts, `generate_batch`", *(rate(results, name, 0) for name in ("http_decode", "direct_decode")),
              rate(results, "ratio_decode", 2)),
        *_row("after prompts, `pyml-bench -b 8`", *(rate(results, name, 0) for name in ("http_decode", "bench")),
              rate(results, "ratio_bench", 2)),
    ]  # fmt: skip


def _empty(results: Results) -> list[str]:
    names = ("health", "one_token", "submit", "beyond")
    health, one, alone, beyond = (rate(results, name, 2) for name in names)
    return [f"/health {health} ms; a completion of one token {one} ms, `submit` {alone} ms, difference {beyond} ms"]


def _cold(results: Results) -> list[str]:
    ready, infer, later = (rate(results, name, 2) for name in ("ready", "infer", "later"))
    return [f"`pyml serve` is ready after {ready} s; `pyml-infer` with one token takes {infer} s; difference {later} s"]


def _head(names: tuple[str, ...]) -> list[str]:
    return [*_row(*names), "|---" + "|--:" * (len(names) - 1) + "|"]


def _row(*cells: str) -> list[str]:
    return [f"| {' | '.join(cells)} |"]


def values(results: Results, name: str) -> list[float]:
    """The values of the rounds that have one."""
    return [one[name] for one in results if one.get(name) is not None]


def middle(results: Results, name: str, digits: int) -> str:
    """The median of the rounds."""
    found = values(results, name)
    return f"{median(found):.{digits}f}" if found else "-"


def rate(results: Results, name: str, digits: int) -> str:
    """The median of the rounds, with the lowest and highest."""
    found = values(results, name)
    if len(found) < 2:
        return middle(results, name, digits)
    return f"{median(found):.{digits}f} ({min(found):.{digits}f} .. {max(found):.{digits}f})"


def _ms(results: Results, name: str, part: str) -> str:
    found = [one[name][part] for one in results if one.get(name)]
    return f"{median(found):.0f}" if found else "-"
