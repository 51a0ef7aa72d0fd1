"""Griffe extension of the documentation site: roles of reStructuredText in docstrings become Markdown."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|mod|data|attr|exc|obj):`[~.]*([^`]+)`")
EXAMPLE = re.compile(r"::\n\n((?:    .*\n|\n)*    .*(?:\n|$))")


class Roles(griffe.Extension):
    """Rewrites the docstring of every object as it is read."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Replace :class:`Name` by `Name`, and a text after ``::`` by a block of code."""
        if obj.docstring is not None:
            text = ROLE.sub(r"`\1`", obj.docstring.value)
            obj.docstring.value = EXAMPLE.sub(r":\n\n\1", text)
