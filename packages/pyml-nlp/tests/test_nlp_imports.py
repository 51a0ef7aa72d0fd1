"""Which modules know of each other, annotations included."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pyml_nlp

ROOT = Path(pyml_nlp.__file__).parent
BELOW = ("arguments", "engine", "evaluation", "generation", "pickling", "sampling", "structured", "values")


def module(path: Path) -> str:
    """``generation.generator`` for that file."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module(path): path for path in ROOT.rglob("*.py")}


@functools.cache
def imports(name: str) -> set[str]:
    """Modules of this package that a module imports, except within functions."""
    found, waiting = set[str](), list[ast.stmt](ast.parse(MODULES[name].read_text()).body)
    parts = [*name.split("."), ""] if MODULES[name].name == "__init__.py" else name.split(".")
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If | ast.ClassDef):
            waiting += node.body
        elif isinstance(node, ast.ImportFrom) and node.level:
            home = [*parts[: -node.level], *(node.module or "").split(".")]
            base = ".".join(part for part in home if part)
            found |= {f"{base}.{alias.name}".strip(".") for alias in node.names} | {base}
    return (found & MODULES.keys()) - {name}


def reached(name: str) -> set[str]:
    """All that a module imports, and what these import."""
    found, waiting = set[str](), [name]
    while waiting:
        new = imports(waiting.pop()) - found
        found |= new
        waiting += new
    return found


def test_nothing_below_the_facade_knows_it() -> None:
    below = [name for name in MODULES if name.split(".")[0] in BELOW]
    assert len(below) > 30
    assert "generation.generator" in reached("language_model")
    for name in below:
        assert "language_model" not in reached(name), name


def test_generation_has_no_circles() -> None:
    for name in MODULES:
        if name.split(".")[0] in ("engine", "generation", "evaluation", "language_model"):
            assert name not in reached(name), name
