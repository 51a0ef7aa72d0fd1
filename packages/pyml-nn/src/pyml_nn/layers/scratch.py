"""Buffers that the layers of a program share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyml_core.errors import ShapeError

if TYPE_CHECKING:
    from pyml_core.program import Program
    from pyml_core.records import Buffer


class Scratch:
    """Named buffers of one program: each is declared once, and every layer overwrites it.

    So the working memory of a deep model is that of one layer.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self._buffers: dict[str, Buffer] = {}

    def buffer(self, name: str, width: int, rows: str = "tokens", copies: int = 1) -> Buffer:
        """Return the buffer of this name, declared on first use; ShapeError if it exists with another shape."""
        buffer = self._buffers.get(name)
        if buffer is None:
            buffer = self._buffers[name] = self.program.buffer(name, width, rows, copies)
        if (buffer.width, buffer.rows, buffer.copies) != (width, rows, copies):
            raise ShapeError(
                f"{name}: expected {width} wide in {copies} of rows {rows!r}, "
                f"it is {buffer.width} in {buffer.copies} of {buffer.rows!r}"
            )
        return buffer
