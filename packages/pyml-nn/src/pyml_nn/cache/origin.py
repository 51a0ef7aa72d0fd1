"""The conditions under which KV caches are interchangeable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, overload

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
            raise ShapeError(f"{name}: expected a KV cache of this model, found one of another model or adapter")
        if found.layout != self.layout:
            raise ShapeError(f"{name}: expected a KV cache in {self.layout.dtype}, found one in {found.layout.dtype}")
        raise ShapeError(f"{name}: expected a KV cache of CPU level {self.cpu_level}, found one of {found.cpu_level}")


class Origins(Sequence[Origin]):
    """The origins of a model's caches: first without an adapter, then with each adapter."""

    def __init__(self, origins: Sequence[Origin]) -> None:
        self._origins = list(origins)
        self._numbers = {origin.model: number for number, origin in enumerate(origins)}

    def __len__(self) -> int:
        return len(self._origins)

    @overload
    def __getitem__(self, index: int) -> Origin: ...
    @overload
    def __getitem__(self, index: slice) -> list[Origin]: ...
    def __getitem__(self, index: int | slice) -> Origin | list[Origin]:
        return self._origins[index]

    def number(self, found: Origin, name: str) -> int:
        """Return the number of the adapter of an origin (0: none).

        Raises:
            ShapeError: it is none of these; the message begins with ``name``.
        """
        number = self._numbers.get(found.model, 0)
        if found != self._origins[number]:
            self._origins[number].check(found, name)
        return number
