"""Mixtures of experts: feed-forwards of which each token uses a few.

Letters: T = tokens of a run, E = experts, K = experts of each token, I = intermediate size of an expert.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .linear import Linear

if TYPE_CHECKING:
    from pyml_core.records import Buffer
    from pyml_core.tensor import PackedMatrix

    from .scratch import Scratch


@dataclass(frozen=True, eq=False)
class Expert:
    """The matrices of one gated feed-forward.

    Attributes:
        gate: (I, hidden).
        up: (I, hidden).
        down: (hidden, I).
    """

    gate: PackedMatrix
    up: PackedMatrix
    down: PackedMatrix


@dataclass(frozen=True, eq=False)
class MixtureOfExperts:
    """``sum over the K best experts of weight * down(activation(gate(x)) * up(x))``.

    Source: Shazeer et al. 2017, arXiv 1701.06538; Jiang et al. 2024, arXiv 2401.04088.

    Attributes:
        router: from the hidden size to one logit for each expert, in float32, because it chooses between experts.
        experts: all experts, of equal shapes.
        n_chosen: K.
        activation: activation of the gate.
        normalize: whether the weights of the chosen experts are scaled to a sum of 1.
    """

    router: Linear
    experts: tuple[Expert, ...]
    n_chosen: int
    activation: str
    normalize: bool = True

    def declare(self, scratch: Scratch, name: str, x: Buffer, out: Buffer, accumulate: bool) -> Buffer:
        """Declare the mixture for x (T, hidden): it writes to ``out``, or adds to it with ``accumulate``."""
        program, copies, inner = scratch.program, self.n_chosen, self.experts[0].gate.shape[0]
        logits = self.router.declare(scratch, f"{name}.router", x, scratch.buffer("router", len(self.experts)))
        routes = scratch.buffer("routes", 2 * copies)
        program.route(f"{name}.route", logits, copies, routes, self.normalize)
        rows = scratch.buffer("dispatched", x.width, copies=copies)
        program.dispatch(f"{name}.dispatch", x, routes, rows)
        gate_up = scratch.buffer("expert_gate_up", 2 * inner, copies=copies)
        program.expert_linear(f"{name}.gate_up", rows, routes, [(e.gate, e.up) for e in self.experts], gate_up)
        gated = scratch.buffer("expert_gated", inner, copies=copies)
        program.gated(f"{name}.activation", gate_up, self.activation, gated)
        done = scratch.buffer("expert_out", out.width, copies=copies)
        program.expert_linear(f"{name}.down", gated, routes, [(e.down,) for e in self.experts], done)
        return program.combine(f"{name}.combine", done, routes, out, accumulate)
