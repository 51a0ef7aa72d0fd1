"""The structs declared for Cython have the fields of the C headers, in order."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import pyml_core

PACKAGE = Path(pyml_core.__file__).parent
pytestmark = pytest.mark.skipif(not (PACKAGE / "csrc").is_dir(), reason="an installed wheel has no sources")

_COMMENTS = re.compile(r"/\*.*?\*/|//[^\n]*|#[^\n]*", re.DOTALL)


def fields_of(declarations: str) -> list[str]:
    """Return the names of the fields in ``type *a, b; type (*call)(int, char); type many[N];``, in order."""
    names = []
    for declaration in filter(None, map(str.strip, declarations.split(";"))):
        call = re.match(r"[^()]*\(\s*\*\s*(\w+)\s*\)\s*\(", declaration)
        if call:
            names.append(call[1])
            continue
        for part in declaration.split(","):
            alias = re.search(r'"(\w+)"\s*$', part)  # Cython: the name in C
            names.append(alias[1] if alias else re.findall(r"(\w+)\s*(?:\[[^\]]*\])?\s*$", part.strip())[0])
    return names


def structs_of_c(text: str) -> dict[str, list[str]]:
    text = _COMMENTS.sub(" ", text)
    found = re.findall(r"typedef\s+struct\s*\w*\s*\{([^{}]*)\}\s*(\w+)\s*;", text)
    return {name: fields_of(body) for body, name in found}


def structs_of_cython(text: str) -> dict[str, list[str]]:
    found = {}
    for name, body in re.findall(r"ctypedef struct (\w+):\n((?:        .*\n)+)", text):
        lines = [re.sub(r"#.*", "", line).strip() for line in body.splitlines()]
        found[name] = fields_of(";".join(line for line in lines if line != "pass"))
    return found


CYTHON = structs_of_cython((PACKAGE / "structs.pxd").read_text()) if (PACKAGE / "structs.pxd").exists() else {}


def test_the_reader_of_declarations() -> None:
    text = "typedef struct node { int32_t a, b; const struct node *next; /* x; */ float f[3]; void (*go)(int); } node;"
    assert structs_of_c(text) == {"node": ["a", "b", "next", "f", "go"]}
    lines = ["int32_t a, b", 'node *next_ "next"  # c', "float f[3]", "void (*go)(int, char) nogil"]
    text = "    ctypedef struct node:\n" + "".join(f"        {line}\n" for line in lines)
    assert structs_of_cython(text) == {"node": ["a", "b", "next", "f", "go"]}


def test_there_are_structs_to_compare() -> None:
    assert {"pyml_op", "pyml_buffer", "pyml_program", "pyml_run", "pyml_continuation"} <= CYTHON.keys()


@pytest.mark.parametrize("name", CYTHON)
def test_fields_are_those_of_the_header(name: str) -> None:
    headers = "\n".join(path.read_text() for path in sorted((PACKAGE / "csrc").glob("*.h")))
    if not CYTHON[name]:  # opaque
        assert re.search(rf"typedef struct {name} {name};", headers)
        return
    assert CYTHON[name] == structs_of_c(headers)[name]


def test_cython_sources_declare_structs_in_one_place() -> None:
    for path in [*PACKAGE.glob("*.pyx"), *PACKAGE.glob("*.pxi")]:
        assert 'extern from "pyml.h"' not in path.read_text(), path.name


def test_sources_are_short() -> None:
    """A part of the extension has one subject."""
    for path in [*PACKAGE.glob("*.pyx"), *PACKAGE.glob("*.pxi"), *PACKAGE.glob("*.pxd")]:
        assert len(path.read_text().splitlines()) < 450, path.name
