"""The ``[attn]`` and ``[perf]`` lines of the log: from events, or, for ``[attn]``, directly from the times of a run."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pyml_core.timing import MAX_PHASES, PHASES, text_of_sums

from .events import Event
from .names import PHASE_OF_OPERATION, layer_of, phases_of

if TYPE_CHECKING:
    from pyml_core.program import Program
    from pyml_core.timing import Timings

ATTENTION_PHASES = ("QKV", "QKnorm", "RoPE", "QK^T", "softmax", "A*V", "out")
"""The phases of attention in an ``[attn]`` line."""


def attention_lines(events: Iterable[Event]) -> list[str]:
    """One ``[attn]`` line for each layer and step: the milliseconds of each phase of attention.

    QKV includes storing k and v in the cache; QKnorm and RoPE are present only if the model has them. Except for the
    time between operations, the sum is that of the event ``layers.N.attention``.
    """
    sums: dict[tuple[int, int], dict[str, float]] = {}
    for event in events:
        if event.layer is not None and event.phase:
            phases = sums.setdefault((event.step, event.layer), {})
            phase = "QKV" if event.phase == "append" else event.phase
            phases[phase] = phases.get(phase, 0.0) + event.ms
    return [f"[attn] layer={layer} {_milliseconds(phases, ATTENTION_PHASES)}" for (_, layer), phases in sums.items()]


class AttentionPlan:
    """The text of a program's ``[attn]`` lines, and the indices of the times that make up its numbers."""

    def __init__(self, program: Program) -> None:
        layers: dict[int, dict[str, list[int]]] = {}
        columns = 1 + MAX_PHASES
        for index, operation in enumerate(program.operations):
            layer, name = layer_of(operation.name), operation.name.rpartition(".")[2]
            if layer is None or ".attention." not in operation.name:
                continue
            terms = layers.setdefault(layer, {})
            if name in PHASE_OF_OPERATION:
                terms.setdefault(PHASE_OF_OPERATION[name], []).append(index * columns)
            for part in phases_of(operation):
                place = index * columns + 1 + PHASES[operation.kind].index(part)
                terms.setdefault("QKV" if part == "append" else part, []).append(place)
        shown = [terms[phase] for terms in layers.values() for phase in ATTENTION_PHASES if phase in terms]
        self._places = np.array([place for places in shown for place in places], np.int64)
        self._ends = np.cumsum([len(places) for places in shown], dtype=np.int64)
        text = "\n".join(
            f"[attn] layer={layer} " + " ".join(f"{phase}=%sms" for phase in ATTENTION_PHASES if phase in terms)
            for layer, terms in layers.items()
        )
        self._pieces = text.encode().split(b"%s")

    def text(self, runs: Sequence[Timings]) -> str:
        """The lines of one step, with the sums over its runs."""
        # perf: overheads.py attn_lines. A step's hundreds of numbers take Python three times as long.
        milliseconds = runs[0].milliseconds if len(runs) == 1 else np.sum([run.milliseconds for run in runs], axis=0)
        return text_of_sums(self._pieces, milliseconds, self._places, self._ends)


_plans: weakref.WeakKeyDictionary[Program, AttentionPlan] = weakref.WeakKeyDictionary()


def attention_plan(program: Program) -> AttentionPlan:
    """Return a program's plan, which is made once."""
    plan = _plans.get(program)
    if plan is None:
        plan = _plans[program] = AttentionPlan(program)
    return plan


def forward_lines(events: Iterable[Event], screened: bool = False) -> list[str]:
    """One ``[perf] model.forward`` line for each step.

    If the model's head is ``screened``, ``full_heads`` counts the runs that computed all of its rows, because rules or
    their results required it.
    """
    lines, full_heads = [], 0
    parts = dict.fromkeys(("embedding", "layers", "norm", "projection", "total"), 0.0)
    for event in events:
        if event.name == "forward":
            parts["total"] = event.ms
            end = f" full_heads={full_heads}" if screened else ""
            lines.append(f"[perf] model.forward {_milliseconds(parts, tuple(parts))}{end}")
            parts, full_heads = dict.fromkeys(parts, 0.0), 0
        elif event.layer is None:
            part = {"select": "norm", "final_norm": "norm", "head": "projection"}.get(
                event.name.split(".")[0], "embedding"
            )
            parts[part] += event.ms
            full_heads += (
                event.flops > 0 if event.name == "head" else event.name == "head.complete" and event.rescored > 0
            )
        elif event.name.count(".") == 3:  # an operation; its phases and sums do not count again
            parts["layers"] += event.ms
    return lines


def matmul_lines(events: Iterable[Event]) -> list[str]:
    """One ``[perf] matmul`` line for each matrix product: shapes, block types, milliseconds, GB/s and GFLOP/s."""
    return [
        f"[perf] matmul {event.name} {event.shape} {event.ms:.3f}ms "
        f"({event.gb_s:.1f} GB/s, {event.gflop_s:.1f} GFLOP/s)"
        for event in events
        if event.shape
    ]


def _milliseconds(phases: Mapping[str, float], names: Sequence[str]) -> str:
    return " ".join(f"{name}={phases[name]:.3f}ms" for name in names if name in phases)
