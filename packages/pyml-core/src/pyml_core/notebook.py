"""HTML tables of objects for notebooks, for their ``_repr_html_`` methods."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping

_TEXT = "white-space: pre-wrap; text-align: left"


def html_table(title: str, rows: Mapping[str, object]) -> str:
    """Return a table with two columns and a title. Text is escaped; its line breaks are kept.

    Args:
        title: the title, such as the name of the class.
        rows: name -> value, shown as its ``str``.
    """
    return html_rows(title, rows.items())


def html_rows(title: str, rows: Iterable[tuple[str, object]]) -> str:
    """Return :func:`html_table` of rows whose names may occur several times."""
    lines = [
        f"<tr><th style='text-align: left'>{html.escape(name)}</th>"
        f"<td style='{_TEXT}'>{html.escape(str(value))}</td></tr>"
        for name, value in rows
    ]
    return f"<table><caption>{html.escape(title)}</caption>{''.join(lines)}</table>"
