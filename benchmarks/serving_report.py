"""Write docs/serving-performance.md from a file of results of serving.py.

    python benchmarks/serving_report.py FOLDER

FOLDER holds serving.json, as ``benchmarks/serving.sh FOLDER`` leaves it. A goal without results is marked as not
measured, and so is a server that has none of a load. Run it with the interpreter that has pyml.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from serving_tables import Results, by_server, counted, ending, heading, table, title, values

DOCS = Path(__file__).parent.parent / "docs"
PYML = "pyml"
MISSING = "*not measured*"

TEMPLATE = """# Performance of the server

`pyml serve` compared with other servers, on one machine: the same requests from one client, in alternation. This page
is written by `benchmarks/serving_report.py`; [benchmarks](../benchmarks/README.md) describes the loads and the figures.
To repeat them:

```sh
sh benchmarks/serving.sh results
```

{machine}

{run}

{servers}

## Goals

A ratio is pyml / the best peer of the row, or as the row says. Reached goals are bold.

{goals}

{models}
## About the run

{ending}
"""


@dataclass(frozen=True)
class Goal:
    """A row of the table of goals.

    Attributes:
        title: what is compared.
        load, size: whose results.
        value: of the model's results of the load: the figure, and what belongs to it; None: it was not measured.
        goal: of the figure.
        most: whether the figure may be this at most; else at least.
    """

    title: str
    load: str
    size: float
    value: Callable[[Results], tuple[float, str] | None]
    goal: float
    most: bool = False


def figure(name: str) -> Callable[[Results], tuple[float, str] | None]:
    """The median of a figure of pyml's."""

    def value(results: Results) -> tuple[float, str] | None:
        found = values([one for one in results if one["server"] == PYML], name)
        return (median(found), "") if found else None

    return value


def best_peer(results: Results) -> tuple[float, str] | None:
    """pyml's tokens/s / those of the best peer: the median of the rounds' ratios."""
    rates = {
        server: {one["round"]: one["tokens_per_second"] for one in own} for server, own in by_server(results).items()
    }
    ours = rates.pop(PYML, None)
    if not ours or not rates:
        return None
    best = max(rates, key=lambda server: median(rates[server].values()))
    ratios = [rate / rates[best][turn] for turn, rate in ours.items() if rates[best].get(turn)]
    return (median(ratios), best) if ratios else None


GOALS = (
    *(Goal(f"tokens/s, {counted(clients, 'client')}", "chat", clients, best_peer, 3.0 if clients == 8 else 1.0)
      for clients in (8, 1, 4, 16, 32)),
    Goal("8 texts, HTTP / `generate_batch`", "batch", 8, figure("ratio"), 0.9),
    Goal("8 texts after their prompts, HTTP / `generate_batch`", "batch", 8, figure("ratio_decode"), 0.9),
    Goal("8 texts after their prompts, HTTP / `pyml-bench -b 8`", "batch", 8, figure("ratio_bench"), 0.9),
    Goal("an empty request, ms", "empty", 1, figure("health"), 1.0, most=True),
    Goal("a text of one token after `submit`, ms", "empty", 1, figure("beyond"), 1.0, most=True),
    Goal("TTFT after a known prefix / the first", "warm", 1, figure("ratio"), 0.1, most=True),
    Goal("gaps while a long prompt is computed, p99 / median", "mixed", 7, figure("p99_of_median"), 3.0, most=True),
    Goal("the same, p99 / median without a long prompt", "mixed", 7, figure("p99_of_alone"), 3.0, most=True),
    Goal("`pyml serve` is ready after `pyml-infer`, s", "cold", 1, figure("later"), 0.3, most=True),
)  # fmt: skip


def goals(found: dict[str, Any]) -> list[str]:
    """The table of goals."""
    lines = ["| | model | goal | reached | best peer |", "|---|---|--:|--:|---|"]
    for goal in GOALS:
        shown = goal.title
        for model in found["models"]:
            own = [
                one
                for one in found["results"]
                if (one["model"], one["load"], one["size"]) == (model, goal.load, goal.size)
            ]
            value = goal.value(own)
            reached, peer = MISSING, ""
            if value is not None:
                number, peer = value
                kept = number <= goal.goal if goal.most else number >= goal.goal
                reached = f"**{number:.2f}**" if kept else f"{number:.2f}"
            sign = "<=" if goal.most else ">="
            lines.append(f"| {shown} | {model} | {sign} {goal.goal:g} | {reached} | {peer} |")
            shown = ""
    return lines


def sections(found: dict[str, Any]) -> str:
    """A section a model, with a table a load."""
    text = ""
    for model in found["models"]:
        text += f"## {model}\n\n"
        for load, size in found["cases"]:
            own = [one for one in found["results"] if (one["model"], one["load"], one["size"]) == (model, load, size)]
            text += f"### {title(load, size)}\n\n" + ("\n".join(table(load, own)) if own else MISSING) + "\n\n"
            wanted = (PYML,) if load in ("batch", "empty", "cold") else found["servers"]
            missing = [name for name in wanted if name not in by_server(own)]
            if own and missing:
                text += f"Not measured: {', '.join(missing)}.\n\n"
    return text


def page(found: dict[str, Any]) -> str:
    """The page."""
    return TEMPLATE.format(
        machine=heading(found),
        run=f"{found['date']}, {found['total_seconds'] / 60:.0f} minutes: `{found['command']}`",
        servers="\n".join(f"- **{name}**: {note}" for name, note in found["notes"].items()),
        goals="\n".join(goals(found)),
        models=sections(found),
        ending="\n".join(ending(found)),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where serving.json is")
    parser.add_argument("--docs", type=Path, default=DOCS, help="where the page goes (default: docs)")
    options = parser.parse_args(arguments)
    found = json.loads((options.folder / "serving.json").read_text())
    (options.docs / "serving-performance.md").write_text(page(found).rstrip() + "\n")


if __name__ == "__main__":
    main()
