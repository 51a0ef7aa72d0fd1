"""The conditions under which KV caches are interchangeable."""

from __future__ import annotations

from typing import NamedTuple

from pyml_core.errors import ShapeError
from pyml_core.kv_layout import KVLayout


class Origin(NamedTuple):
    """Everything except the tokens that keys and values depend on: caches of equal origins are interchangeable.

    Attributes:
        model: fingerprint of the model.
        cpu_level: level of the kernels.
        layout: geometry of a page, with the type of keys and values.
    """

    model: str
    cpu_level: str
    layout: KVLayout

    def check(self, found: Origin, name: str) -> None:
        """Raise :class:`ShapeError`, whose message begins with ``name``, unless ``found`` is equal."""
        if found == self:
            return
        if found.model != self.model:
            raise ShapeError(f"{name}: expected a KV cache of this model, found one of another model")
        if found.layout != self.layout:
            raise ShapeError(f"{name}: expected a KV cache in {self.layout.dtype}, found one in {found.layout.dtype}")
        raise ShapeError(f"{name}: expected a KV cache of CPU level {self.cpu_level}, found one of {found.cpu_level}")
