"""Check the content of the sdists and wheels of a folder: sdists have all sources, wheels have no C."""

from __future__ import annotations

import runpy
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VERSION = runpy.run_path(str(ROOT / "packages/pyml-core/src/pyml_core/_version.py"))["__version__"]


def source_only(path: str) -> bool:
    """Whether wheels are without this file: sources of the extension, and what explains them."""
    return "/csrc/" in path or path.endswith((".c", ".h", ".def", ".pyx", ".pxd", ".pxi"))


def main(folder: Path) -> int:
    """Print one line for each fault; returns 0 if there are no faults."""
    faults = []
    for package in ("pyml_core", "pyml_nn", "pyml_nlp"):
        names = [path.name for path in folder.glob(f"{package}-*")]
        faults += [f"{name}: is not of version {VERSION}" for name in names if f"{package}-{VERSION}" not in name]
        (sdist,) = folder.glob(f"{package}-*.tar.gz")
        (wheel,) = folder.glob(f"{package}-*.whl")
        with tarfile.open(sdist) as archive:
            inner = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
        with zipfile.ZipFile(wheel) as archive:
            outer = set(archive.namelist())
        expected = {path for path in inner if path.startswith("src/") and not source_only(path)}
        faults += [f"{wheel.name}: lacks {path}" for path in expected if path.removeprefix("src/") not in outer]
        faults += [f"{wheel.name}: has {path}" for path in outer if source_only(path)]
        faults += [f"{sdist.name}: has {path}" for path in inner if path.endswith((".so", ".pyc", ".o"))]
        needed = {"LICENSE", "README.md", "pyproject.toml"}
        faults += [f"{sdist.name}: lacks {path}" for path in needed - inner]
        if not any(path.endswith("licenses/LICENSE") for path in outer):
            faults.append(f"{wheel.name}: lacks the licence")
        if package == "pyml_nlp" and "pyml_nlp/server/page/index.html" not in outer:
            faults.append(f"{wheel.name}: lacks the server's page")
        if package == "pyml_core":
            if "src/pyml_core/csrc/dispatch.c" not in inner:
                faults.append(f"{sdist.name}: lacks the C sources")
            if not any(path.startswith("pyml_core/_native.") and path.endswith(".so") for path in outer):
                faults.append(f"{wheel.name}: lacks its extension")
            if wheel.stem.endswith("any"):
                faults.append(f"{wheel.name}: is tagged as if it held no compiled code")
    print(*faults or ["sdists and wheels have the expected content"], sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
