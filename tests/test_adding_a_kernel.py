"""docs/adding-a-kernel.md names what is there: every path exists, and every name occurs in the files named with it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CORE = ROOT / "packages/pyml-core/src/pyml_core"
PAGE = ROOT / "docs/adding-a-kernel.md"
ITEM = re.compile(r"^\s*(?:\d+\.|-|\|)|^$|^#")


def items() -> Iterator[str]:
    """Paragraphs, rows of tables and items of lists."""
    lines: list[str] = []
    for line in [*PAGE.read_text().splitlines(), ""]:
        if ITEM.match(line) and lines:
            yield " ".join(lines)
            lines = []
        lines.append(line.strip())


def path_of(token: str) -> Path | None:
    """The file or folder that a token is the name of; None for other names."""
    if not re.fullmatch(r"[\w./-]+", token) or not re.search(r"\w/|\w\.(?:py|pyx|pxd|pxi|h|c|def|md|sh|toml)$", token):
        return None
    return ROOT / token if (ROOT / token).exists() else CORE / token


def sources(path: Path) -> str:
    files = [path] if path.is_file() else [file for file in path.iterdir() if file.suffix in (".py", ".c", ".h")]
    return "\n".join(file.read_text() for file in files)


TOKENS = [(item, re.findall(r"`([^`]+)`", item)) for item in items()]
PATHS = sorted({path for _, tokens in TOKENS for path in map(path_of, tokens) if path is not None})
NAMES = [
    (token, tuple(path for path in map(path_of, tokens) if path is not None) or tuple(PATHS))
    for _, tokens in TOKENS
    for token in tokens
    if path_of(token) is None and re.fullmatch(r"[A-Za-z_]\w*(?:\.\w+)*", token)
]


def test_the_page_has_names_to_check() -> None:
    assert len(PATHS) > 20
    assert {"OperationKind", "EveryOperation", "BLOCK_TYPES", "row_items", "end_row"} <= {name for name, _ in NAMES}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(ROOT)))
def test_paths_exist(path: Path) -> None:
    assert path.exists()


@pytest.mark.parametrize(("name", "paths"), NAMES, ids=[name for name, _ in NAMES])
def test_names_are_in_the_files_that_are_named_with_them(name: str, paths: tuple[Path, ...]) -> None:
    text = "\n".join(sources(path) for path in paths)
    for part in name.split("."):
        assert re.search(rf"\b{part}\b", text), f"{part} is not in {', '.join(path.name for path in paths)}"
