"""Pickling and copying of objects, as in multiprocessing, joblib and the ``copy`` module."""

from __future__ import annotations

from typing import Any, NoReturn, Self, SupportsIndex

from .errors import PymlError


class OfOneProcess:
    """Base of objects that cannot be pickled or copied. The error names an alternative.

    Subclasses give it as ``instead``: ``class KVCache(OfOneProcess, instead="save it with save(path)")``.
    """

    _instead = ""

    def __init_subclass__(cls, *, instead: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if instead is not None:
            cls._instead = instead

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise PymlError(f"{type(self).__name__}: it cannot be pickled or copied: {self._instead}")


class SharedByCopies:
    """Base of immutable objects: ``copy.copy`` and ``copy.deepcopy`` return the object itself."""

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self
