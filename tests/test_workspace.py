"""The house rules: which package imports which, forbidden calls, the promises of the docs and the build."""

from __future__ import annotations

import ast
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

import pyml_core
import pyml_nlp
import pyml_nn

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("core", "nn", "nlp")
# Siblings that each package may import: downwards only.
MAY_IMPORT = {"core": {"pyml_core"}, "nn": {"pyml_core", "pyml_nn"}, "nlp": {"pyml_core", "pyml_nn", "pyml_nlp"}}
LEVELS = ["scalar", "avx2", "avx_vnni", "avx512", "avx512_vnni"]
PYTHONS = {".venv", *(f".venv-{name}" for name in ("3.11", "3.12", "3.13", "clients", "page", "ray", "schema"))}
NOT_OURS = {*PYTHONS, ".git", "build", "dist", "site", "__pycache__"}


def our_files() -> list[Path]:
    """Every file of the workspace that is neither built nor installed nor a tool's cache."""
    found = []
    for path in ROOT.rglob("*"):
        parts = path.relative_to(ROOT).parts
        if NOT_OURS.isdisjoint(parts) and not any(part.endswith("_cache") or part == ".hypothesis" for part in parts):
            found.append(path)
    return [path for path in found if path.is_file() and path.suffix not in (".so", ".pyc")]


def source_files() -> Iterator[tuple[str, Path]]:
    for package in PACKAGES:
        for path in sorted((ROOT / f"packages/pyml-{package}/src").rglob("*.py")):
            yield package, path


def metadata(package: str) -> dict[str, Any]:
    with (ROOT / f"packages/pyml-{package}/pyproject.toml").open("rb") as file:
        return dict(tomllib.load(file)["project"])


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and full name of every absolute import, those inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


SOURCES = [pytest.param(package, path, id=str(path.relative_to(ROOT / "packages"))) for package, path in source_files()]


@pytest.mark.parametrize(("package", "path"), SOURCES)
def test_imports_go_downwards_and_are_declared(package: str, path: Path) -> None:
    project = metadata(package)
    wanted = [*project["dependencies"], *chain.from_iterable(project.get("optional-dependencies", {}).values())]
    declared = {re.split(r"[<>=~ \[]", name)[0].replace("-", "_").lower() for name in wanted}
    for line, name in imported(ast.parse(path.read_text())):
        top = name.split(".")[0]
        if top.startswith("pyml_"):
            assert top in MAY_IMPORT[package], f"{path}:{line}: pyml_{package} must not import {top}"
        if top == "opentelemetry":  # several packages
            top = "opentelemetry_api"
        if top not in sys.stdlib_module_names and top != f"pyml_{package}":
            assert top in declared, f"{path}:{line}: {top} is no dependency of pyml-{package}"


FORBIDDEN_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "torch", "runpy", "code"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}


@pytest.mark.parametrize(("package", "path"), SOURCES)
def test_nothing_is_unpickled_or_executed(package: str, path: Path) -> None:
    tree = ast.parse(path.read_text())
    for line, name in imported(tree):
        assert name.split(".")[0] not in FORBIDDEN_MODULES, f"{path}:{line}: {name}"
        assert name != "jinja2.Environment", f"{path}:{line}: templates of model files run in jinja2's sandbox"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in FORBIDDEN_CALLS, f"{path}:{node.lineno}: {node.func.id}()"
        if isinstance(node, ast.keyword) and node.arg in ("allow_pickle", "trust_remote_code"):
            assert isinstance(node.value, ast.Constant), f"{path}:{node.value.lineno}: {node.arg}"
            assert node.value.value is False, f"{path}:{node.value.lineno}: {node.arg}"


@pytest.mark.parametrize("package", PACKAGES)
def test_package_is_complete(package: str) -> None:
    folder = ROOT / f"packages/pyml-{package}"
    assert (folder / f"src/pyml_{package}/py.typed").exists()
    assert (folder / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert any((folder / "tests").rglob("test_*.py"))
    project = metadata(package)
    siblings = [name for name in project["dependencies"] if name.startswith("pyml-")]
    assert all(name.endswith(f"=={pyml_core.__version__}") for name in siblings), siblings


def test_packages_have_one_version() -> None:
    """Their metadata is that of the last installation: after a change of version, run scripts/setup.sh."""
    found = {name: version(name) for name in ("pyml-core", "pyml-nn", "pyml-nlp")}
    assert set(found.values()) == {pyml_core.__version__}, found
    assert pyml_core.__version__ == pyml_nn.__version__ == pyml_nlp.__version__
    for package in PACKAGES:
        assert metadata(package)["dynamic"] == ["version"]


@pytest.mark.parametrize("path", [path for path in our_files() if path.suffix == ".md"], ids=lambda path: path.name)
def test_links_of_the_docs_lead_somewhere(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:|#", target):
            assert (path.parent / target.split("#")[0]).exists(), f"{path.name}: {target}"


def test_names_of_files_in_the_docs_exist() -> None:
    pages = [
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "docs/concepts").glob("*.md"),
        *(ROOT / "docs/reference").glob("*.md"),
    ]
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "tests/README.md", *pages]:
        for name in re.findall(r"`((?:packages|scripts|tests|benchmarks|docs)/[\w./-]+)`", page.read_text()):
            assert (ROOT / name).exists(), f"{page.name}: {name}"


def test_a_release_sets_every_version(tmp_path: Path) -> None:
    main = runpy.run_path(str(ROOT / "scripts/release.py"))["main"]
    files = ["CHANGELOG.md", "packages/pyml-core/src/pyml_core/_version.py"]
    files += [f"packages/pyml-{package}/pyproject.toml" for package in ("nn", "nlp")]
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## [Unreleased]\n\n### Added\n\n- Something.\n")
    assert main(["9.8.7"], tmp_path) == 0
    texts = {name: (tmp_path / name).read_text() for name in files}
    assert "## [Unreleased]\n\n## [9.8.7] - 2" in texts["CHANGELOG.md"]
    assert '__version__ = "9.8.7"' in texts[files[1]]
    assert [texts[name].count('==9.8.7"') for name in files[2:]] == [1, 2]
    assert main(["9.8.8"], tmp_path) == 1  # no changes since
    assert main(["next"], tmp_path) == 2


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    """MkDocs checks this as well; it is not in the environment of the tests."""
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    listed = re.findall(r"([\w./-]+\.md)$", navigation, re.MULTILINE)
    assert len(listed) == len(set(listed))
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    made = set(re.findall(r'": "(project/[\w-]+\.md)"', (ROOT / "scripts/docs_site.py").read_text()))
    assert set(listed) == pages | made


READS = re.compile(r"""(?:environ(?:\.get|\.setdefault)?[(\[]|getenv\()"([A-Z_]+)"|\$\{([A-Z_]+):-""")
NO_SETTINGS = {"PATH", "TMPDIR", "LD_PRELOAD", "ASAN_OPTIONS"}


def test_environment_variables_are_documented() -> None:
    """Every variable that a file of ours reads is on one page."""
    page = (ROOT / "docs/reference/environment.md").read_text()
    documented = set(re.findall(r"`([A-Z_]+)(?:=[^`]*)?`", page))
    read = {}
    for path in our_files():
        if path.suffix in (".py", ".c", ".h", ".pyx", ".pxi", ".sh"):
            for names in READS.findall(path.read_text(errors="replace")):
                read["".join(names)] = path
    assert len(read) > 10
    assert {name: path for name, path in read.items() if name not in documented | NO_SETTINGS} == {}


def test_folders_of_helpers_are_in_the_settings_of_all_tools() -> None:
    """pytest, mypy and scripts find the helpers of tests in the same places; no file changes sys.path for them."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        tool = tomllib.load(file)["tool"]
    folders = tool["pytest"]["ini_options"]["pythonpath"]
    scripts = tool["hatch"]["envs"]["default"]["env-vars"]["PYTHONPATH"].replace("{root}", ".").split(":")
    assert [str(Path(name)) for name in scripts] == folders
    assert set(folders) - {"."} <= set(tool["mypy"]["mypy_path"])
    changes = "sys.path" + ".insert"
    files = [path for path in our_files() if path.suffix == ".py" and "tests" in path.parts]
    assert [path for path in files if changes in path.read_text()] == []


def test_readme_has_two_commands() -> None:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    commands = [text for language, text in blocks if language in ("sh", "bash", "shell")]
    assert len(commands) == 2
    assert "pyml-infer" in commands[0]
    assert "pytest" in commands[1]


def test_no_large_files() -> None:
    large = [path for path in our_files() if path.stat().st_size > 1_000_000]
    assert not large


def test_levels_are_the_same_everywhere() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        (matrix,) = tomllib.load(file)["tool"]["hatch"]["envs"]["test"]["matrix"]
    hook = runpy.run_path(str(ROOT / "packages/pyml-core/hatch_build.py"))
    assert matrix["level"] == LEVELS
    assert list(hook["LEVELS"]) == LEVELS
    flags = [*hook["C_FLAGS"], *hook["CYTHON_FLAGS"], *(flag for level in hook["LEVELS"].values() for flag in level)]
    assert "-ffp-contract=off" in flags
    assert not {"-march=native", "-ffast-math", "-Ofast"} & set(flags)


def test_changed_sources_are_noticed() -> None:
    import pyml_core._build_check as build_check

    with pytest.raises(ImportError, match="hatch run kernels"):
        build_check.check("0" * 64)


@pytest.mark.parametrize("level", LEVELS)
def test_every_symbol_of_a_level_carries_its_name(level: str) -> None:
    """Two levels never share a symbol: the linker would keep one of them, and run AVX-512 on a CPU that has none."""
    nm = shutil.which("nm")
    objects = list((ROOT / "packages/pyml-core/build/objects").glob(f"*-{level}.o"))
    if nm is None or not objects:
        pytest.skip("nm or the build's objects are not here")
    for path in objects:
        lines = subprocess.run([nm, "--defined-only", path], capture_output=True, text=True, check=True).stdout
        names = [line.split()[-1] for line in lines.splitlines() if line.split()[-2].isupper()]
        assert names
        assert all(name.endswith(f"_{level}") for name in names), path.name
