"""The build hook compiles what was edited, also what was edited while it compiled."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


class Build:
    """The hook on a package of one C file, with a compiler that copies its text.

    Attributes:
        hook: the module.
        source: the C file.
        compiled: names of the files that were compiled.
        meanwhile: called while the C file is compiled, after it was read.
    """

    def __init__(self, hook: ModuleType, folder: Path) -> None:
        self.hook = hook
        self.package = folder / "src"
        self.source = self.package / "csrc" / "one.c"
        self.folder = folder / "build"
        self.source.parent.mkdir(parents=True)
        self.folder.mkdir()
        (self.package / "_native.pyx").write_text("pyx")
        self.source.write_text("first")
        self.compiled: list[str] = []
        self.meanwhile: Callable[[], object] = lambda: None

    def call(self, command: Sequence[str]) -> None:
        target = Path(command[command.index("-o") + 1])
        if "-c" not in command:
            target.write_text(Path(command[-1]).read_text() if "cython" in command else "linked")
            return
        source = Path(command[command.index("-c") + 1])
        target.write_text(source.read_text())
        Path(command[command.index("-MF") + 1]).write_text(f"{target}: {source}\n")
        self.compiled.append(source.name)
        if source == self.source:
            self.meanwhile()

    def build(self) -> list[str]:
        """Build, and return the names of the files that were compiled, but for the hash's."""
        self.compiled.clear()
        self.hook._build(self.folder, [])
        return sorted(set(self.compiled) - {"source_hash.c"})

    @property
    def object(self) -> str:
        return (self.folder / "one.o").read_text()


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    spec = importlib.util.spec_from_file_location("hook_of_a_test", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    made = Build(hook, tmp_path)
    for name, value in (
        ("PACKAGE", made.package), ("_compiler", lambda: ["cc"]), ("_levels", lambda compiler: []),
        ("_python_include", lambda: "include"), ("_version", lambda compiler: "1"), ("_call", made.call),
    ):  # fmt: skip
        monkeypatch.setattr(hook, name, value)
    return made


def test_only_edited_sources_are_compiled(build: Build) -> None:
    native = next(name for name in build.build() if name != "one.c")
    assert build.build() == []
    build.source.write_text("second")
    assert build.build() == ["one.c"]
    assert build.object == "second"
    (build.package / "_native.pyx").write_text("another")
    assert native in build.build()


def test_a_source_that_is_edited_while_it_is_compiled(build: Build) -> None:
    build.meanwhile = lambda: build.source.write_text("second")
    with pytest.raises(SystemExit, match="edited while they were compiled: build again"):
        build.build()
    assert build.object == "first"
    build.meanwhile = lambda: None
    assert "one.c" in build.build()
    assert build.object == "second"
    assert build.build() == []


def test_an_edit_that_is_taken_back(build: Build) -> None:
    """The object of the text in between has no record, although the sources are those of an earlier build."""
    build.build()
    build.source.write_text("second")
    build.meanwhile = lambda: build.source.write_text("first")
    with pytest.raises(SystemExit):
        build.build()
    assert build.object == "second"
    build.meanwhile = lambda: None
    assert build.build() == ["one.c"]
    assert build.object == "first"
