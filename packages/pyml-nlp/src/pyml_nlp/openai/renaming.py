"""Errors of fields under the names that another API has for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from ..errors import ArgumentError


@contextmanager
def renamed(names: Mapping[str, str]) -> Iterator[None]:
    """A block whose :class:`ArgumentError` names the fields of another API.

    Args:
        names: beginning of a name -> what it is there.
    """
    try:
        yield
    except ArgumentError as error:
        for name, other in names.items():
            rest = error.name.removeprefix(name)
            if error.name.startswith(name) and rest[:1] in ("", ".", "["):
                raise ArgumentError(error.problem, other + rest) from None
        raise
