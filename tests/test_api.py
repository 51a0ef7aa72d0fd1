"""The names of pyml_nlp: groups, laziness, and every error that a user can meet."""

from __future__ import annotations

import importlib
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import pyml_core
import pyml_nlp
import pyml_nn
from pyml_core.errors import PymlError

ROOT = Path(__file__).resolve().parent.parent
# The first becomes a CacheFileError before a user sees it, the second the response to a request.
INTERNAL = {"TensorFileError", "TextCancelled"}
ERRORS = pyml_nlp.__all__[pyml_nlp.__all__.index("ArgumentError") :]


def modules(package: ModuleType) -> Iterator[str]:
    for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not info.name.endswith("trial_process") and ".worker" not in info.name:  # scripts of child processes
            yield info.name


def subclasses(kind: type[Exception]) -> Iterator[type[Exception]]:
    yield kind
    for other in kind.__subclasses__():
        yield from subclasses(other)


def test_every_error_is_exported() -> None:
    for package in (pyml_core, pyml_nn, pyml_nlp):
        for name in modules(package):
            importlib.import_module(name)
    found = {kind.__name__ for kind in subclasses(PymlError) if kind.__module__.startswith("pyml_")}
    assert found - INTERNAL == set(ERRORS)
    assert len(ERRORS) > 10


@pytest.mark.parametrize("name", ERRORS)
def test_every_error_is_documented(name: str) -> None:
    rows = re.findall(r"^\| `(\w+)` \|([^|]*)\|", (ROOT / "docs/errors.md").read_text(), re.M)
    kind = getattr(pyml_nlp, name)
    assert issubclass(kind, PymlError)
    also = [base.__name__ for base in kind.__bases__ if not issubclass(base, PymlError)]
    assert dict(rows)[name].split() == [f"`{base}`" for base in also]


def test_every_name_can_be_imported() -> None:
    for name in pyml_nlp.__all__:
        assert getattr(pyml_nlp, name).__name__ == name
        assert name in dir(pyml_nlp)
    assert len(set(pyml_nlp.__all__)) == len(pyml_nlp.__all__)
    with pytest.raises(AttributeError, match="module 'pyml_nlp' has no attribute 'Sampling'"):
        pyml_nlp.Sampling  # type: ignore[attr-defined]  # noqa: B018


def test_names_are_loaded_when_they_are_first_used() -> None:
    code = (
        "import sys, pyml_nlp; dir(pyml_nlp); print(sorted(m for m in sys.modules if m.startswith(('pyml', 'numpy'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "['pyml_nlp']\n"


def test_groups() -> None:
    source = Path(pyml_nlp.__file__).read_text()
    groups = re.findall(r"^    # (\w+)(?::.*)?$", source[source.index("__all__") :], re.M)
    assert groups == ["entry", "options", "results", "errors"]
