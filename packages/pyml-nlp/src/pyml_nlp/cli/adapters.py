"""``--lora [NAME=]PATH[:SCALE]``: adapters of the model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..options.adapters import AdapterFile

_NAMED = re.compile(r"(?:([^=/\\]+)=)?(.+?)(?::([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?))?", re.DOTALL)


def adapters_of(given: Sequence[str], *, several: bool = False) -> tuple[AdapterFile, ...]:
    """The adapters of all ``--lora``.

    Args:
        given: values of the option.
        several: whether there may be more than one: texts choose.

    Raises:
        UsageError: an invalid value, or more than one.
    """
    if not given:
        return ()
    from ..errors import ArgumentError
    from ..options.adapters import AdapterFile, adapter_files

    if len(given) > 1 and not several:
        raise click.UsageError("--lora is supported once: a text has one adapter")
    found = []
    for value in given:
        match = _NAMED.fullmatch(value)
        try:
            if match is None:
                raise ValueError
            found.append(AdapterFile(match[2], match[1] or "", float(match[3] or 1.0)))
        except ValueError:
            raise click.UsageError(f"invalid value {value!r:.80} for '--lora': expected [NAME=]PATH[:SCALE]") from None
    try:
        return adapter_files(found)
    except ArgumentError as error:
        raise click.UsageError(f"--lora {error.problem}") from None


def chosen_adapter(given: Sequence[str]) -> str | None:
    """The name of the adapter of a single ``--lora``; None: there is none."""
    return next((adapter.name for adapter in adapters_of(given)), None)
