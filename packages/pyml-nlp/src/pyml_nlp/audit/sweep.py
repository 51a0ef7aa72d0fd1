"""Conversion of traced events to the data of a report: the sweep, the layer heatmap, the timeline."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from .measurements import EMBEDDING, FEED_FORWARD, GROUPS, HEAD, LINEAR, PARTS, SQUARE, OperationSum, Span, SweepPoint

if TYPE_CHECKING:
    from pyml_core.program import Program
    from pyml_nn import Event


def part_of(event: Event) -> str:
    """Return the part of attention that an event belongs to; empty if none."""
    return event.phase if event.layer is not None and event.phase in PARTS else ""


def group_of(event: Event) -> str:
    """Return the group of the model, one of five, that an operation belongs to."""
    if event.name.endswith(".attention.attend"):
        return SQUARE
    if ".attention." in event.name:
        return LINEAR
    if event.layer is not None:
        return FEED_FORWARD
    return HEAD if event.name.split(".")[0] in ("select", "final_norm", "head") else EMBEDDING


def folded(name: str) -> str:
    """Replace the layer's number in a name: ``layers.*.attention.qkv`` for ``layers.3.attention.qkv``."""
    return re.sub(r"^layers\.\d+", "layers.*", name)


def wall_ms(events: Iterable[Event]) -> float:
    """Return the milliseconds of the whole forward pass."""
    return next(event.ms for event in events if event.name == "forward")


def sweep_point(
    kind: str, length: int, samples: list[list[Event]], program: Program, layers: Sequence[int]
) -> SweepPoint:
    """Summarise one length of the sweep from the events of all repetitions; ``layers`` are those for the parts."""
    chosen = set(layers)
    parts: list[dict[str, float]] = []
    groups: list[dict[str, float]] = []
    for events in samples:
        part_ms: dict[str, float] = {}
        group_ms = dict.fromkeys(GROUPS, 0.0)
        for event in events:
            if (part := part_of(event)) and event.layer in chosen:
                part_ms[part] = part_ms.get(part, 0.0) + event.ms
            if event.level == "operation":
                group_ms[group_of(event)] += event.ms
        parts.append(part_ms)
        groups.append(group_ms)
    middle = sorted(samples, key=wall_ms)[len(samples) // 2]
    return SweepPoint(
        kind,
        length,
        [wall_ms(events) for events in samples],
        {part: [sample[part] for sample in parts] for part in PARTS if part in parts[0]},
        {group: [sample[group] for sample in groups] for group in GROUPS},
        _operations(samples, program),
        _waiting(middle),
    )


def _operations(samples: list[list[Event]], program: Program) -> list[OperationSum]:
    quantized = {folded(operation.name): _quantized(operation.params) for operation in program.operations}
    sums: dict[str, list[list[float]]] = {}
    costs: dict[str, list[int]] = {}
    for index, events in enumerate(samples):
        for event in events:
            if event.level != "operation":
                continue
            name = folded(event.name)
            sums.setdefault(name, [[] for _ in samples])[index].append(event.ms)
            if index == len(samples) - 1:
                cost = costs.setdefault(name, [0, 0, 0])
                cost[0] += 1
                cost[1] += event.bytes
                cost[2] += event.flops
    return [
        OperationSum(name, calls, statistics.median(map(sum, sums[name])), moved, flops, quantized[name])
        for name, (calls, moved, flops) in costs.items()
    ]


def _quantized(params: Any) -> bool:
    return any(matrix.quantized for matrix in params.get("matrices", ()))


def _waiting(events: Iterable[Event]) -> float:
    """Return the share of the threads' time in operations that was not work."""
    operations = [event for event in events if event.level == "operation" and event.thread_spans]
    there = sum(event.ms * len(event.thread_spans) for event in operations)
    return max(0.0, 1 - sum(event.busy_ms for event in operations) / there) if there else 0.0


def heatmap_of(samples: list[list[Event]], n_layers: int) -> list[dict[str, float]]:
    """Return the median milliseconds of each layer's operations, with the parts of attention separate."""
    cells: list[dict[str, list[float]]] = [{} for _ in range(n_layers)]
    for events in samples:
        found: list[dict[str, float]] = [{} for _ in range(n_layers)]
        for event in events:
            if event.layer is None:
                continue
            name = part_of(event)
            if not name:
                if event.level != "operation" or event.name.rpartition(".")[2] in ("prepare", "attend"):
                    continue
                name = event.name.split(".", 2)[2]
            found[event.layer][name] = found[event.layer].get(name, 0.0) + event.ms
        for cell, layer in zip(cells, found, strict=True):
            for name, ms in layer.items():
                cell.setdefault(name, []).append(ms)
    return [{name: round(statistics.median(times), 5) for name, times in cell.items()} for cell in cells]


def spans(events: Sequence[Event]) -> list[Span]:
    """Return the nested spans of one step: step, block, branch, operation, phase."""
    forward = next(event for event in events if event.name == "forward")
    found = [Span(0, "step", 0.0, round(forward.ms * 1e3, 2))]
    outer: dict[tuple[int, str], list[float]] = {}
    used: dict[str, float] = {}  # total of the phases placed so far, by operation
    for event in events:
        level = event.level
        start = (event.start_ns - forward.start_ns) / 1e3
        us = event.ms * 1e3
        pieces = event.name.split(".")
        if level == "operation":
            for depth in range(1, 3):
                name = ".".join(pieces[: 2 if depth == 1 else 3])
                if event.layer is None:
                    name = pieces[0]
                if depth == 1 or event.layer is not None:
                    whole = outer.setdefault((depth, name), [start, start])
                    whole[1] = max(whole[1], start + us)
            found.append(Span(3, event.name, round(start, 2), round(us, 2)))
        elif level == "phase":
            parent = event.name.rpartition(".")[0]
            found.append(Span(4, event.name, round(start + used.get(parent, 0.0), 2), round(us, 2)))
            used[parent] = used.get(parent, 0.0) + us
    found += [Span(d, name, round(a, 2), round(b - a, 2)) for (d, name), (a, b) in outer.items()]
    return sorted(found, key=lambda span: (span.depth, span.start_us))
