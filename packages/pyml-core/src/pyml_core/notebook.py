"""Objects as tables in HTML, for notebooks: what their ``_repr_html_`` methods return."""

from __future__ import annotations

import html
from collections.abc import Mapping

_TEXT = "white-space: pre-wrap; text-align: left"


def html_table(title: str, rows: Mapping[str, object]) -> str:
    """A table of two columns below a title. Texts are escaped, line breaks in them kept.

    Args:
        title: such as the name of the class.
        rows: by name, values whose ``str`` is shown.
    """
    lines = [
        f"<tr><th style='text-align: left'>{html.escape(name)}</th>"
        f"<td style='{_TEXT}'>{html.escape(str(value))}</td></tr>"
        for name, value in rows.items()
    ]
    return f"<table><caption>{html.escape(title)}</caption>{''.join(lines)}</table>"
