"""The report in Markdown."""

from __future__ import annotations

from .analyse import Analysis
from .measurements import Measurements
from .sections import Section, Table, sections, summary, summary_tiles, title


def markdown(m: Measurements, a: Analysis) -> str:
    """Return the whole report."""
    figures = Table(["", "", ""], [[one.label, one.value, one.note] for one in summary_tiles(m, a)])
    blocks = [f"# {title(m)}", summary(m, a), _table(figures)]
    for section in sections(m, a):
        blocks += _section(section)
    return "\n\n".join(blocks) + "\n"


def _section(section: Section) -> list[str]:
    blocks = [f"## {section.title}"]
    for number, conclusion in enumerate(section.conclusions, 1):
        blocks.append(f"{number}. **{conclusion.title}.** {conclusion.text} *{conclusion.recommendation}*")
    return [*blocks, *section.text, *map(_table, section.tables)]


def _table(table: Table) -> str:
    numeric = [table.is_numeric(column) for column in range(len(table.columns))]
    lines = [_line(table.columns), _line(["--:" if right else "---" for right in numeric], "")]
    lines += [_line([table.text(cell) for cell in row]) for row in table.rows]
    return "\n".join(lines)


def _line(cells: list[str], space: str = " ") -> str:
    escaped = (cell.replace("|", "\\|") for cell in cells)
    return "|" + "|".join(f"{space}{cell}{space}" for cell in escaped) + "|"
