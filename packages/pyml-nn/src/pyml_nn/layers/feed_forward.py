"""Feed-forward layers, plain and gated.

Letters: T = tokens of a run, I = intermediate size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .linear import Linear

if TYPE_CHECKING:
    from pyml_core.records import Buffer

    from .scratch import Scratch


ACTIVATIONS = {
    "gelu": "gelu_erf",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
}
"""Names of activations in Hugging Face configurations -> names of the kernels."""


@dataclass(frozen=True, eq=False)
class FeedForward:
    """``down(activation(up(x)))``.

    Attributes:
        up: from the hidden size to I.
        activation: ``gelu_tanh``, ``gelu_erf`` or ``silu``.
        down: from I to the hidden size.
    """

    up: Linear
    activation: str
    down: Linear

    def declare(self, scratch: Scratch, name: str, x: Buffer, out: Buffer, accumulate: bool) -> Buffer:
        """Declare the feed-forward of x (T, hidden): it writes to ``out``, or adds to it with ``accumulate``."""
        up = self.up.declare(scratch, f"{name}.up", x, scratch.buffer("up", self.up.width))
        activated = scratch.buffer("activated", self.up.width)
        scratch.program.activate(f"{name}.activation", up, self.activation, activated)
        return self.down.declare(scratch, f"{name}.down", activated, out, accumulate)


@dataclass(frozen=True, eq=False)
class GatedFeedForward:
    """``down(activation(gate(x)) * up(x))``. Source: Shazeer 2020, arXiv 2002.05202.

    Attributes:
        gate_up: from the hidden size to [gate | up], 2 I wide.
        activation: ``gelu_tanh``, ``gelu_erf`` or ``silu``.
        down: from I to the hidden size.
    """

    gate_up: Linear
    activation: str
    down: Linear

    def declare(self, scratch: Scratch, name: str, x: Buffer, out: Buffer, accumulate: bool) -> Buffer:
        """Declare the feed-forward of x (T, hidden): it writes to ``out``, or adds to it with ``accumulate``."""
        width = self.gate_up.width
        gate_up = self.gate_up.declare(scratch, f"{name}.gate_up", x, scratch.buffer("gate_up", width))
        gated = scratch.buffer("gated", width // 2)
        scratch.program.gated(f"{name}.activation", gate_up, self.activation, gated)
        return self.down.declare(scratch, f"{name}.down", gated, out, accumulate)
