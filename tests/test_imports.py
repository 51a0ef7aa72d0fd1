"""Which module imports which: no circles, not even for annotations; the audit stands at the top."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("core", "nn", "nlp")


def modules(package: str) -> dict[str, Path]:
    """Files of a package by module name; of a compiled module its stub."""
    source = ROOT / f"packages/pyml-{package}/src"
    found = {}
    for path in sorted([*source.rglob("*.py"), *source.rglob("*.pyi")]):
        parts = path.relative_to(source).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path) -> Iterator[str]:
    """Full names of everything that a module imports: in functions and for annotations too."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([base] if base else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def home(name: str, known: dict[str, Path]) -> str | None:
    """The module that defines an imported name; None if it is in none of these."""
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name or None


def graph(known: dict[str, Path]) -> dict[str, set[str]]:
    """The modules that each module imports."""
    edges: dict[str, set[str]] = {}
    for name, path in known.items():
        if path.suffix == ".pyi":  # compiled code imports nothing; its stub only names types
            edges[name] = set()
            continue
        targets = {home(imported, known) for imported in imports(name, path)}
        edges[name] = {target for target in targets if target is not None and target != name}
    return edges


def circle(edges: dict[str, set[str]]) -> list[str]:
    """A circle of imports, each module importing the next; empty if no circle exists."""
    finished: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return path[path.index(name) :]
        if name in finished:
            return []
        for target in sorted(edges[name]):
            if found := visit(target, [*path, name]):
                return found
        finished.add(name)
        return []

    return next((found for name in sorted(edges) if (found := visit(name, []))), [])


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_imports_itself_over_others(package: str) -> None:
    edges = graph(modules(package))
    assert sum(map(len, edges.values())) > 20
    assert circle(edges) == []


def test_a_circle_for_annotations_is_found(tmp_path: Path) -> None:
    sources = {
        "a": "from b import Thing\n",
        "b": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from c import Other\n",
        "c": "def late():\n    import a\n",
        "d": "import a\n",
    }
    for name, text in sources.items():
        (tmp_path / f"{name}.py").write_text(text)
    edges = graph({name: tmp_path / f"{name}.py" for name in sources})
    assert circle(edges) == ["a", "b", "c"]
    del edges["c"]
    edges["b"] = set()
    assert circle(edges) == []


def reached(name: str, edges: dict[str, set[str]]) -> set[str]:
    """All modules that a module imports, directly or through others."""
    found, waiting = set[str](), [name]
    while waiting:
        new = edges[waiting.pop()] - found
        found |= new
        waiting += new
    return found


BELOW = ("arguments", "engine", "evaluation", "generation", "pickling", "sampling", "structured", "tokenizer", "values")


def test_nothing_below_the_facade_knows_it() -> None:
    edges = graph(modules("nlp"))
    below = [name for name in edges if name.startswith(tuple(f"pyml_nlp.{part}" for part in BELOW))]
    assert len(below) > 60
    assert "pyml_nlp.generation.generator" in reached("pyml_nlp.language_model", edges)
    for name in below:
        assert "pyml_nlp.language_model" not in reached(name, edges), name


def late_imports(path: Path) -> Iterator[int]:
    """Lines of imports in functions that have no comment, neither on a line of the block of imports nor above it."""
    lines = path.read_text().splitlines()
    for function in ast.walk(ast.parse(path.read_text())):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.Import | ast.ImportFrom):
                block = node.lineno - 1
                while re.match(r"\s+(from|import|try:|with) ?", lines[block - 1]) and "#" not in lines[block]:
                    block -= 1
                if "#" not in lines[block] and not lines[block - 1].strip().startswith("#"):
                    yield node.lineno


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_in_functions_say_why(package: str) -> None:
    for name, path in modules(package).items():
        if path.name != "__init__.py" and not name.startswith("pyml_nlp.cli"):
            assert list(late_imports(path)) == [], f"{name}: import at the top, or say why not"


def test_only_the_command_imports_the_audit() -> None:
    users = {
        name
        for package in PACKAGES
        for name, path in modules(package).items()
        if any(target.startswith("pyml_nlp.audit") for target in imports(name, path))
    }
    assert {name for name in users if not name.startswith("pyml_nlp.audit")} == {"pyml_nlp.cli.audit"}


def test_the_audit_uses_public_names_only() -> None:
    public = set(next(names for names in _all_of(modules("nlp")["pyml_nlp"])))
    for name, path in modules("nlp").items():
        if not name.startswith("pyml_nlp.audit"):
            continue
        for target in imports(name, path):
            parts = target.split(".")
            if parts[0].startswith("pyml_"):
                assert not any(part.startswith("_") for part in parts if part != "__version__"), f"{name}: {target}"
            if parts[0] == "pyml_nlp" and parts[1:2] != ["audit"] and target != "pyml_nlp":
                assert target.removeprefix("pyml_nlp.") in public, f"{name}: {target}"


def _all_of(path: Path) -> Iterator[list[str]]:
    """The value of ``__all__`` in a module."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__":
            yield ast.literal_eval(node.value)
