"""The buffers that a program's layers use in turn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyml_core.errors import ShapeError

if TYPE_CHECKING:
    from pyml_core.graph import Buffer
    from pyml_core.program import Program


class Scratch:
    """Named activations of one program, each declared once and written anew by every layer.

    Sharing them keeps the working memory of a deep model as small as that of one layer.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self._buffers: dict[str, Buffer] = {}

    def buffer(self, name: str, width: int, rows: str = "tokens", copies: int = 1) -> Buffer:
        """The buffer of this name, declared on first use; ShapeError if it exists with another width."""
        buffer = self._buffers.get(name)
        if buffer is None:
            buffer = self._buffers[name] = self.program.buffer(name, width, rows, copies)
        if (buffer.width, buffer.rows, buffer.copies) != (width, rows, copies):
            raise ShapeError(
                f"{name}: expected {width} wide in {copies} of rows {rows!r}, "
                f"it is {buffer.width} in {buffer.copies} of {buffer.rows!r}"
            )
        return buffer
