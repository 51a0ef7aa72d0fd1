"""The embedding of token ids.

Letters: T = tokens of a run, V = vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyml_core.program import Program
    from pyml_core.records import Buffer
    from pyml_core.tensor import PackedMatrix


@dataclass(frozen=True, eq=False)
class Embedding:
    """A row of the table for every token id, times ``scale``.

    Attributes:
        table: (V, width).
        scale: factor of the rows.
    """

    table: PackedMatrix
    scale: float = 1.0

    def declare(self, program: Program, name: str, out: Buffer) -> Buffer:
        """Declare the look-up of a run's ids, written to ``out`` (T, width)."""
        return program.embed(name, self.table, out, self.scale)
