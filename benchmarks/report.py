"""Write docs/performance.md and its plot from the files of results of one day.

    python benchmarks/report.py FOLDER

FOLDER holds compare.json, cold.json (cold starts in a run of their own), large.json (real sizes), sampling.json,
matrix_products.json, roofline.json, ablation.json and overheads.json, as ``benchmarks/performance.sh FOLDER`` leaves
them.
Missing results are marked as not measured. Run it with the interpreter that has pyml.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import ablation
import matrix_products
import overheads
import roofline
import sampling
import tables

DOCS = Path(__file__).parent.parent / "docs"
MISSING = "*Not measured.*\n"
SECTIONS: dict[str, ModuleType] = {
    "matrix_products": matrix_products, "ablation": ablation, "overheads": overheads, "large": tables,
    "sampling": sampling,
}  # fmt: skip
"""By name of the file of results: the module whose ``markdown`` shows them."""

GOALS = (
    ("prefill of 128 tokens", "gemma3-270m", "pp128", 1.7),
    ("", "smollm2-135m", "pp128", 1.7),
    ("", "gpt2-124m", "pp128", 1.7),
    ("prefill of 512 tokens", "gemma3-270m", "pp512", 1.7),
    ("", "smollm2-135m", "pp512", 1.7),
    ("", "gpt2-124m", "pp512", 1.7),
    ("prefill of 4096 tokens", "gemma3-270m", "pp4096", 2.5),
    ("", "smollm2-135m", "pp4096", 2.0),
    ("decode, every logit", "gemma3-270m", "tg64", 1.6),
    ("", "smollm2-135m", "tg64", 1.8),
    ("", "gpt2-124m", "tg64", 1.2),
    ("decode of text, the most probable token only", "gemma3-270m", "tg64@text", 2.5),
    ("", "gpt2-124m", "tg64@text", 1.4),
    ("decode of text after 2048 tokens", "gemma3-270m", "tg64@d2048@text", 3.0),
    ("", "smollm2-135m", "tg64@d2048@text", 3.0),
)
"""A goal: a row's title, model, test, and the minimum ratio of pyml's speed to the best peer's."""

TEMPLATE = """# Performance

The speed of pyml compared with other engines and with the machine's limits, and the value of each technique. This
page is written by `benchmarks/report.py`; [benchmarks](../benchmarks/README.md) describes the measurements. To repeat
them:

```sh
sh benchmarks/performance.sh results
```

{machine}

Look at ratios of engines that were measured in alternation in one run: absolute figures belong to one machine and
one hour.

## Goals

The ratio is pyml / the best peer of the row, median over the rounds.

{goals}

## Side by side

{comparison}
The rows `@sampled`, `@nucleus`, `@penalty` are texts that each engine writes by the same rules, `@b8` eight of them
together; KL divergence and top-1 agreement stand below the speeds, so that neither is read alone:

```sh
python benchmarks/compare.py --models gemma3-270m smollm2-135m \\
  --tests tg64@sampled tg64@nucleus tg64@penalty tg64@b8@sampled quality
```

## Real sizes

Random weights at the shape of Llama 3.1 8B, in the mix of Q4_K_M, and at that of the mixture of Qwen3-30B-A3B, all in
Q4_K and wired as Mixtral (no norms of queries and keys). Files of 4 and 12 layers of the mixture, whose times are
scaled to all 48, stand for 17 GB, which this machine has no room for. The files are written where they are needed and
deleted again, unless `--keep` is given:

```sh
python benchmarks/compare.py --models llama3.1-8b-q4_k_m qwen3-30b-a3b-q4_k@4 qwen3-30b-a3b-q4_k@12 --rounds 3
```

{large}
## Texts by the rules that choose their tokens

One process measures all rows in alternation. A ratio is that to greedy texts with a screened head; of a batch, to runs
of the kernels alone with as many sequences. "Outside" is the share of the time that is not inside the program's runs.

```sh
python benchmarks/sampling.py --model gemma3-270m --rounds 7
pyml-bench model.gguf -p 0 -n 64 --temperature 1 --top-k 64 --top-p 0.95 -b 8    # rows of one set of rules
```

{sampling}
## Below the roof

Each operation of a model, all its layers together, in a prefill of 512 tokens and in a decode step. On the slope the
memory is the limit, under the flat lines arithmetic is: int8 for quantised matrices, f32 for the rest. Pointing at a
mark shows its figures.

![Roofline](roofline.svg)

## Matrix products alone

One row is compared with plain reads of memory, 512 rows with the int8 limit (the f32 limit for f32, f16 and bf16).
One row streams more copies of the matrix than the caches hold.

{matrix_products}
## The value of each technique

The measurement with one technique switched off, and the speed of everything together relative to it. The switches
are public: `--threads`, `PYML_CPU_LEVEL`, `--dtype`, `--kv-dtype`, `--full-head`.

{ablation}
## Costs apart from the kernels

Python's share is the time of the generate loop apart from the model's runs. Tracing is compared step by step with none.

{overheads}"""


def read(folder: Path, name: str) -> Any:
    """Read a file of results; returns None if it does not exist."""
    path = folder / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def goals(report: dict[str, Any]) -> str:
    """A table of the goals and the results."""
    found = {(row["model"], row["test"]): row for row in report["results"]}
    lines = ["| | model | goal | reached | best peer |", "|---|---|---:|---:|---|"]
    for title, model, test, goal in GOALS:
        contest = found.get((model, test), {}).get("ratios", {}).get("pyml")
        reached = f"**{contest['ratio']:.2f}x**" if contest and contest["ratio"] >= goal else ""
        reached = reached or (f"{contest['ratio']:.2f}x" if contest else "not measured")
        peer = contest["best_peer"] if contest else ""
        lines.append(f"| {title} | {model} | {goal}x | {reached} | {peer} |")
    for model in ("gemma3-270m", "smollm2-135m", "gpt2-124m"):
        one, eight = (found.get((model, test), {}).get("engines", {}).get("pyml") for test in ("tg64", "tg64@b8"))
        if one and eight and one["median"] and eight["median"]:
            title = "eight sequences together, of one" if model == "gemma3-270m" else ""
            lines.append(f"| {title} | {model} | 4x | {_bold(eight['median'] / one['median'], 4)} | |")
    lines += _large(found)
    for row in report["cold"]:
        if row["model"] == "gemma3-270m" and {"pyml", "llama.cpp"} <= set(row["engines"]):
            own, peer = row["engines"]["pyml"], row["engines"]["llama.cpp"]
            if "median" in own and "median" in peer:
                lines.append(
                    f"| cold start | gemma3-270m | 1x | {_bold(peer['median'] / own['median'], 1)} "
                    f"({own['median']:.2f} s against {peer['median']:.2f} s) | llama.cpp |"
                )
                peak = f"{own['peak_mb']:.0f} MB"
                peak = f"**{peak}**" if own["peak_mb"] <= 440 else peak
                lines.append(f"| its peak of memory | gemma3-270m | 440 MB | {peak} | |")
    return "\n".join(lines)


def _bold(value: float, goal: float) -> str:
    return f"**{value:.2f}x**" if value >= goal else f"{value:.2f}x"


def _large(found: dict[tuple[str, str], dict[str, Any]]) -> list[str]:
    """Return the rows for the 1B models, in milliseconds of a token."""
    lines = []
    for model in ("gemma3-1b-q8_0", "gemma3-1b-q4_0"):
        for title, test, goal in (("decode, ms a token", "tg64", 45.0), ("prefill, ms a token", "pp512", 2.5)):
            own = found.get((model, test), {}).get("engines", {}).get("pyml")
            if own and own["median"]:
                ms = 1e3 / own["median"]
                reached = f"**{ms:.2f}**" if ms <= goal else f"{ms:.2f}"
                lines.append(f"| {title} | {model} | {goal:g} | {reached} | |")
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the results are")
    parser.add_argument("--docs", type=Path, default=DOCS, help="where the page goes (default: docs)")
    options = parser.parse_args(arguments)
    compared = read(options.folder, "compare")
    sections = {
        name: module.markdown(found) if (found := read(options.folder, name)) else MISSING
        for name, module in SECTIONS.items()
    }
    machine = "The comparison is *not measured*."
    if compared:
        if cold := read(options.folder, "cold"):
            compared["cold"] = cold["cold"]
        about = compared["machine"]
        machine = (
            f"{about['cpu']}, {about['cores']} cores, {about['memory_gib']} GiB, {compared['date']}, "
            f"{compared['threads']} threads, {compared['rounds']} rounds: `{compared['command']}`"
            + (f"; cold starts, {cold['date']}: `{cold['command']}`" if cold else "")
        )
    page = TEMPLATE.format(
        machine=machine,
        goals=goals(compared) if compared else MISSING.strip(),
        comparison=tables.markdown(compared) if compared else MISSING,
        **sections,
    )
    (options.docs / "performance.md").write_text(page.rstrip() + "\n")
    if found := read(options.folder, "roofline"):
        (options.docs / "roofline.svg").write_text(roofline.svg(found))


if __name__ == "__main__":
    main()
