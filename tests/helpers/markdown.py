"""The examples of Markdown pages: their fenced blocks, and outputs to compare."""

from __future__ import annotations

import re
from dataclasses import dataclass

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        language: the word behind the fence.
        text: its lines.
        line: where it begins in the page.
        output: the text block that follows it without anything in between; None if there is none.
    """

    language: str
    text: str
    line: int
    output: str | None


@dataclass(frozen=True)
class Command:
    """A line of a console block that begins with ``$``, without its comment, and the lines that follow it."""

    text: str
    output: str


def blocks(page: str) -> list[Block]:
    """All fenced blocks, in order."""
    found = list(FENCE.finditer(page))
    result = []
    for number, match in enumerate(found):
        after = found[number + 1] if number + 1 < len(found) else None
        follows = after is not None and after[1] == "text" and not page[match.end() : after.start()].strip()
        output = after[2] if after is not None and follows else None
        result.append(Block(match[1], match[2], page.count("\n", 0, match.start()) + 1, output))
    return result


def sessions(page: str) -> list[list[Block]]:
    """The page's blocks of Python by session: one that begins with an import starts a new session."""
    found: list[list[Block]] = []
    for block in blocks(page):
        if block.language == "python":
            if not found or re.match(r"(import|from) ", block.text):
                found.append([])
            found[-1].append(block)
    return found


def commands(block: Block) -> list[Command]:
    """The commands of a console block."""
    found = []
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        line, _, output = part.partition("\n")
        found.append(Command(re.sub(r"\s{2,}# .*", "", line).strip(), output))
    return found


def masked(output: str) -> str:
    """The output with its figures that differ between runs (numbers with a point) as ``#``, and single spaces."""
    return re.sub(r"[ \t]+", " ", re.sub(r" *-?\d+\.\d+", " #", output)).strip("\n")
