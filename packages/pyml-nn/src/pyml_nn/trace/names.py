"""Names of operations: their layers and phases, and the patterns that choose some of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Protocol, cast

from pyml_core.errors import PymlError, quoted
from pyml_core.timing import PHASES

if TYPE_CHECKING:
    from pyml_core.program import Program
    from pyml_core.records import Operation


def event_names(program: Program) -> Iterator[str]:
    """Names of all events that a run of the program has."""
    for operation in (*program.operations, *program.screening):
        yield operation.name
        yield from (f"{operation.name}.{part}" for part in phases_of(operation))
        if operation.name.endswith(".attention.out"):
            yield operation.name.removesuffix(".out")
    yield "forward"


def checked_patterns(name: str, patterns: object) -> list[str]:
    """Return patterns as a list: one, or several; PymlError, which names the argument, if they are no texts."""
    if isinstance(patterns, str):
        return [patterns]
    several = isinstance(patterns, Iterable) and getattr(patterns, "ndim", 1) != 0
    found: list[str] = []
    for pattern in cast("Iterable[object]", patterns) if several else (patterns,):
        if not isinstance(pattern, str):
            raise PymlError(f"trace: {name}: expected patterns of names, got {quoted(pattern)}")
        found.append(pattern)
    return found


class Matcher(Protocol):
    """Whether a name matches."""

    def __call__(self, name: str) -> bool: ...


def matcher(patterns: Sequence[str], kind: str, names: Iterable[str]) -> Matcher:
    """Compile patterns, of which a name must match one; PymlError if a pattern matches none of these names."""
    known, compiled = list(names), []
    for pattern in patterns:
        pieces = re.split(r"(\*\*|\*)", pattern)
        regex = "".join({"**": ".*", "*": "[^.]*"}.get(piece, re.escape(piece)) for piece in pieces)
        compiled.append(re.compile(regex))
        if not any(compiled[-1].fullmatch(name) for name in known):
            folded = dict.fromkeys(re.sub(r"^layers\.\d+", "layers.*", name) for name in known)
            raise PymlError(f"trace: no {kind} of this model is named {quoted(pattern)}; there are {', '.join(folded)}")
    return lambda name: any(regex.fullmatch(name) is not None for regex in compiled)


PHASE_OF_OPERATION = {"qkv": "QKV", "qkv_lora": "QKV", "out": "out", "out_lora": "out"}
"""Last part of an operation's name -> phase of attention, for operations that are one phase."""


@cache
def layer_of(name: str) -> int | None:
    """Index of the layer of an operation, or None."""
    return int(name.split(".")[1]) if name.startswith("layers.") else None


def phases_of(operation: Operation) -> list[str]:
    """The phases of a fused operation, without those that the model does not have."""

    def has(phase: str) -> bool:
        if phase == "QKnorm":
            return operation.params["q_norm"] is not None or operation.params["k_norm"] is not None
        return phase != "RoPE" or len(operation.inputs) > 1

    return [phase for phase in PHASES.get(operation.kind, ()) if has(phase)]
