"""Set the version of all three packages: ``python scripts/release.py 0.2.0``.

Changes the version (pyml_core/_version.py), the packages' pins of each other, and the heading of the unreleased changes
in CHANGELOG.md, which must have some. Commits nothing: docs/project/release.md has the other steps.
"""

from __future__ import annotations

import re
import runpy
import sys
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VERSION = re.compile(r"\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?")


def main(arguments: list[str], root: Path = ROOT) -> int:
    """Run the command line; returns the exit code."""
    if len(arguments) != 1 or not VERSION.fullmatch(arguments[0]):
        print("usage: python scripts/release.py VERSION (such as 0.2.0 or 0.2.0rc1)", file=sys.stderr)
        return 2
    try:
        changed = release(arguments[0], root, datetime.now(UTC).date().isoformat())
    except ValueError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    for path in changed:
        print(path.relative_to(root))
    return 0


def release(new: str, root: Path, date: str) -> list[Path]:
    """Write the new version everywhere; returns the files that changed.

    Raises:
        ValueError: the changelog has no unreleased changes, or a file does not have the old version where expected.
    """
    source = root / "packages/pyml-core/src/pyml_core/_version.py"
    old = runpy.run_path(str(source))["__version__"]
    texts = {source: replaced(source, f'"{old}"', f'"{new}"', 1)}
    for package, pins in (("nn", 1), ("nlp", 2)):
        path = root / f"packages/pyml-{package}/pyproject.toml"
        texts[path] = re.sub(rf'"(pyml-\w+)=={re.escape(old)}"', rf'"\1=={new}"', path.read_text())
        if texts[path].count(f"=={new}") < pins:
            raise ValueError(f"{path}: expected {pins} pins of {old}")
    changelog = root / "CHANGELOG.md"
    unreleased = re.search(r"^## \[Unreleased\]\n(.*?)(?=^## |\Z)", changelog.read_text(), re.MULTILINE | re.DOTALL)
    if unreleased is None or "\n- " not in unreleased[1]:
        raise ValueError(f"{changelog}: expected changes under '## [Unreleased]', found none")
    texts[changelog] = replaced(changelog, "## [Unreleased]\n", f"## [Unreleased]\n\n## [{new}] - {date}\n", 1)
    for path, text in texts.items():
        path.write_text(text)
    return list(texts)


def replaced(path: Path, old: str, new: str, count: int) -> str:
    """The file's text with ``old`` replaced; ValueError unless it occurs ``count`` times."""
    text = path.read_text()
    if text.count(old) != count:
        raise ValueError(f"{path}: expected {old.strip()!r} {count} times, found {text.count(old)}")
    return text.replace(old, new)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
