"""The parts of the time of a model's runs: operations of the same kind, all layers together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from pyml_core.timing import PHASES
from pyml_nn.trace.lines import ATTENTION_PHASES
from pyml_nn.trace.names import PHASE_OF_OPERATION

if TYPE_CHECKING:
    from pyml_core.timing import Timings

MODEL_PARTS = (
    "embedding", "qkv", "attention", "attention_out", "gate_up", "down", "norms", "head", "head_screen", "head_rescore",
    "other",
)  # fmt: skip
"""The parts of a run of the model."""

CHOOSING, PYTHON, WAITING = "choosing", "python", "waiting"
"""Choosing tokens; what the generating thread does between runs; its time without a text."""

PARTS = (*MODEL_PARTS, CHOOSING, PYTHON, WAITING)

_OF_OPERATION = {
    "embedding": "embedding", "positions": "embedding", "qkv": "qkv", "prepare": "attention", "attend": "attention",
    "out": "attention_out", "gate_up": "gate_up", "gate": "gate_up", "up": "gate_up", "activation": "gate_up",
    "down": "down", "norm": "norms", "post_norm": "norms", "final_norm": "norms", "select": "norms", "head": "head",
    "soft_cap": "head",
    "screen": "head_screen", "rescore": "head_rescore", "refine": "head_rescore", "complete": "head_rescore",
}  # fmt: skip


def part_of(name: str) -> str:
    """The part that an operation belongs to."""
    return (
        "embedding"
        if name.partition(".")[0] == "rope"
        else _OF_OPERATION.get(name.rpartition(".")[2].removesuffix("_lora"), "other")
    )


class Rates(NamedTuple):
    """A part of some runs.

    Attributes:
        ms: milliseconds.
        bytes: read and written.
        operations: arithmetic ones, integer or not.
    """

    ms: float
    bytes: int
    operations: int


def attention_sums(timings: Sequence[Timings]) -> dict[str, float]:
    """Milliseconds of the phases of attention in the runs of one call, all layers together.

    The phases are those of :func:`pyml_nn.attention_lines`; phases that a model does not have are left out.
    """
    found = dict.fromkeys(ATTENTION_PHASES, 0.0)
    milliseconds = np.sum([times.milliseconds for times in timings], axis=0).tolist()
    for operation, (whole, *parts) in zip(timings[0].operations, milliseconds, strict=True):
        own = PHASE_OF_OPERATION.get(operation.name.rpartition(".")[2])
        if own is not None and ".attention." in operation.name:
            found[own] += whole
        for phase, ms in zip(PHASES.get(operation.kind, ()), parts, strict=False):
            found["QKV" if phase == "append" else phase] += ms
    return {name: ms for name, ms in found.items() if ms}


class PartTimes:
    """Divides the times of one model's runs among :data:`MODEL_PARTS`."""

    def __init__(self) -> None:
        self._places: dict[int, npt.NDArray[np.intp]] = {}  # by number of operations: heads differ in it

    def milliseconds(self, timings: Sequence[Timings]) -> list[float]:
        """Milliseconds of each part in some runs together."""
        total = np.zeros(len(MODEL_PARTS))
        for times in timings:
            total += np.bincount(self._places_of(times), times.milliseconds[:, 0], len(MODEL_PARTS))
        found: list[float] = total.tolist()
        return found

    def rates(self, timings: Sequence[Timings]) -> dict[str, Rates]:
        """Time, bytes and operations of each part in the runs of one call together; takes a third of a millisecond.

        Bytes and operations are counted for the first run: the others differ by one more key of each text.
        """
        moved, flops = np.zeros(len(MODEL_PARTS), np.int64), np.zeros(len(MODEL_PARTS), np.int64)
        for times in timings[:1]:
            places = self._places_of(times)
            costs = np.array(times.costs(), np.int64)
            np.add.at(moved, places, costs[:, 0])
            np.add.at(flops, places, costs[:, 1])
        counts = zip((moved * len(timings)).tolist(), (flops * len(timings)).tolist(), strict=True)
        rows = zip(MODEL_PARTS, self.milliseconds(timings), counts, strict=True)
        return {name: Rates(ms, *both) for name, ms, both in rows}

    def _places_of(self, times: Timings) -> npt.NDArray[np.intp]:
        """The index of each operation's part."""
        places = self._places.get(len(times))
        if places is None:
            names = [operation.name for operation in times.operations]
            places = self._places[len(times)] = np.array([MODEL_PARTS.index(part_of(name)) for name in names], np.intp)
        return places
