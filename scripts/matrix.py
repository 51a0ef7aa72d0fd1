"""Run the test matrix, Python x CPU level, as far as this machine has them, and report the missing ones.

    python scripts/matrix.py              the packages' own tests, every Python x every level
    python scripts/matrix.py --ci         the oldest Python: tests of kernels and layers at every level but the best,
                                          without those that take all levels in turn wherever they run, and tests of
                                          text, which run no kernels, once, if this is another Python; a smoke test on
                                          every other Python

Hatch tries to download a Python that is missing and dies where it cannot; so only interpreters that start are passed
on. A version manager's shim, for one, is a file that may not start.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from pyml_core.cpu import levels

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Run the requested part; returns 0 if everything passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ci", action="store_true", help="what is not run elsewhere: one Python at every other level")
    arguments = parser.parse_args()

    with (ROOT / "pyproject.toml").open("rb") as file:
        (matrix,) = tomllib.load(file)["tool"]["hatch"]["envs"]["test"]["matrix"]
    pythons = {version: path for version in matrix["python"] if (path := find_python(version))}
    supported = levels()
    here = [level for level in matrix["level"] if level in supported]
    best = here[-1]
    first = next(iter(pythons))

    if arguments.ci:
        runs = [(first, [level for level in here if level != best], "level")]
        if first != f"{sys.version_info.major}.{sys.version_info.minor}":  # else the whole suite has run them
            runs.append((first, [best], "text"))
        runs += [(version, [best], "smoke") for version in pythons if version != first]
    else:
        runs = [(version, here, "packages") for version in pythons]
    failed = [run for run in runs if run[1] and not hatch(*run, pythons[run[0]])]

    for version in matrix["python"]:
        if version not in pythons:
            print(f"matrix: not run: Python {version} (no interpreter of it starts here)")
    for level in matrix["level"]:
        if level not in supported:
            print(f"matrix: not run: level {level} (this CPU, or its operating system, has it not)")
    for version, some_levels, script in failed:
        print(f"matrix: FAILED: {script}, Python {version}, levels {', '.join(some_levels)}")
    return 1 if failed else 0


def hatch(version: str, at: list[str], script: str, python: Path) -> bool:
    """Run a script of the environments of one Python, in one environment for all levels; whether it passed."""
    print(f"matrix: {script}, Python {version} ({python}), levels {', '.join(at)}", flush=True)
    command = [sys.executable, "-m", "hatch", "env", "run", "--force-continue", "-e", "test", "-i", f"python={version}"]
    command += ["-i", f"level={','.join(at)}", "--", script]
    environment = {**os.environ, "PATH": os.pathsep.join([str(python.parent), os.environ["PATH"]])}
    return subprocess.run(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, check=False).returncode == 0


def find_python(version: str) -> Path | None:
    """An interpreter of this version that starts and can make environments."""
    test = f"import ensurepip, sys; sys.exit('%d.%d' % sys.version_info[:2] != '{version}')"
    for path in candidates(version):
        if path.exists():
            done = subprocess.run([path, "-c", test], capture_output=True, stdin=subprocess.DEVNULL, check=False)
            if done.returncode == 0:
                return path
    return None


def candidates(version: str) -> Iterator[Path]:
    """Where an interpreter of this version may be: the PATH, then the version managers' folders."""
    for place in os.environ["PATH"].split(os.pathsep):
        yield Path(place, f"python{version}")
    for folder in (Path.home() / ".pyenv/versions", Path.home() / ".local/share/uv/python"):
        yield from sorted(folder.glob(f"*{version}*/bin/python{version}"), reverse=True)


if __name__ == "__main__":
    sys.exit(main())
