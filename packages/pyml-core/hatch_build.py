"""Build hook of pyml-core: one extension module, ``pyml_core._native``.

- ``csrc/*.c`` is compiled once, for any CPU of the architecture;
- ``csrc/level/*.c`` is compiled once for each CPU level, with that level's flags and ``-DPYML_LEVEL=<level>``, which
  the sources append to the name of every symbol that they define;
- ``_native.pyx`` and the files that it includes are translated to C, compiled, and linked with all of those.

A level that the compiler does not support is left out; the macro ``PYML_HAVE_<LEVEL>`` (0 or 1) tells the dispatcher.
Run as a script, it rebuilds the module in place: ``python hatch_build.py`` (or ``hatch run kernels``). Unchanged
objects are kept in ``build/``.

Environment: ``CC`` is the compiler (with options); ``PYML_LEVELS=scalar,avx2`` compiles these levels only;
``PYML_SANITIZE=address,undefined`` makes a sanitizer build.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import runpy
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).resolve().parent
PACKAGE = ROOT / "src" / "pyml_core"
source_hash = runpy.run_path(str(PACKAGE / "_build_check.py"))["source_hash"]  # the package cannot be imported yet
MODULE = "_native" + (sysconfig.get_config_var("EXT_SUFFIX") or ".so")

AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq"]
# The flags of every level. An architecture compiles its own levels.
LEVELS: dict[str, list[str]] = {
    "scalar": [],
    "avx2": AVX2,
    "avx_vnni": [*AVX2, "-mavxvnni"],
    "avx512": AVX512,
    "avx512_vnni": [*AVX512, "-mavx512vnni"],
}
X86_LEVELS = list(LEVELS)
OTHER_LEVELS = ["scalar"]

# No contraction and no fast-math: fused multiply-adds are explicit in the sources, so that every build rounds alike.
C_FLAGS = ["-O3", "-std=c11", "-ffp-contract=off", "-fvisibility=hidden", "-fPIC", "-pthread", "-Wall", "-Wextra"]
# The extension module only checks and converts. It need not be fast, and -O1 halves its compile time.
CYTHON_FLAGS = ["-O1", "-fvisibility=hidden", "-fPIC", "-pthread", "-DNDEBUG", "-w"]


class CustomBuildHook(BuildHookInterface[Any]):
    """Compiles the extension: next to its sources if the install is editable, else into the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it collects the files of a wheel; ``version`` is "editable" or "standard"."""
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        module = build()
        if version == "editable":
            install(module)
        else:
            build_data["force_include"][str(module)] = f"pyml_core/{MODULE}"


def build() -> Path:
    """Compile changed sources and link. Returns the path of the module in ``build/``."""
    sanitize = os.environ.get("PYML_SANITIZE", "")
    folder = ROOT / "build" / (f"sanitize-{sanitize.replace(',', '-')}" if sanitize else "objects")
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / "lock"):
        return _build(folder, _sanitizer_flags(sanitize) if sanitize else [])


def install(module: Path) -> None:
    """Put the module next to its sources atomically, so that running processes keep the old one."""
    temporary = PACKAGE / f".{MODULE}.{os.getpid()}.so"
    shutil.copyfile(module, temporary)
    temporary.replace(PACKAGE / MODULE)


def _sanitizer_flags(sanitize: str) -> list[str]:
    # Without warnings: inserted checks cause false reports of uninitialised variables.
    flags = [f"-fsanitize={sanitize}", "-fno-sanitize-recover=all", "-g1", "-O1", "-w"]
    # Checks are calls: inlined into unrolled kernels, they take three times as long to compile.
    calls = ["--param", "asan-instrumentation-with-call-threshold=0"]
    return [*flags, *calls] if "address" in sanitize.split(",") and _accepts(_compiler(), [*flags, *calls]) else flags


def _build(folder: Path, extra: list[str]) -> Path:
    compiler = _compiler()
    levels = _levels(compiler)
    have = [f"-DPYML_HAVE_{level.upper()}={int(level in levels)}" for level in LEVELS]

    sources = source_hash(PACKAGE)
    hash_c, hash_h = _write_source_hash(folder, sources)
    generated = folder / f"_native-{sysconfig.get_config_var('SOABI')}.c"
    _cythonize(PACKAGE / "_native.pyx", generated, sources)
    includes = ["-include", str(hash_h), f"-I{_python_include()}", f"-I{PACKAGE}", f"-I{PACKAGE / 'csrc'}"]
    common = [*compiler, *C_FLAGS, *extra]
    # The longest jobs first.
    jobs = [(generated, generated.with_suffix(".o"), [*compiler, *CYTHON_FLAGS, *extra, *have, *includes])]
    for level in reversed(levels):
        flags = [*common, *LEVELS[level], f"-DPYML_LEVEL={level}"]
        for source in sorted((PACKAGE / "csrc" / "level").glob("*.c")):
            jobs.append((source, folder / f"{source.stem}-{level}.o", flags))
    for source in [*sorted((PACKAGE / "csrc").glob("*.c")), hash_c]:
        jobs.append((source, folder / f"{source.stem}.o", [*common, *have]))
    with ThreadPoolExecutor(max(2, os.cpu_count() or 1)) as pool:
        list(pool.map(lambda job: _compile(job[0], job[1], job[2], sources), jobs))
    if source_hash(PACKAGE) != sources:
        sys.exit("pyml-core's sources were edited while they were compiled: build again")
    module = folder / MODULE
    shared = ["-bundle", "-undefined", "dynamic_lookup"] if sys.platform == "darwin" else ["-shared"]
    _call([*compiler, *shared, "-pthread", *extra, *(str(target) for _, target, _ in jobs), "-lm", "-o", str(module)])
    return module


def _cythonize(source: Path, target: Path, sources: str) -> None:
    files = sorted(str(path) for path in PACKAGE.rglob("*") if path.suffix in (".pyx", ".pxd", ".pxi"))
    options = ["-3", "-X", "show_performance_hints=False", "--module-name", "pyml_core._native", "-o", str(target)]
    state = [version_of("cython"), *options]
    if not _current(target, state):
        _forget(target)
        _call([sys.executable, "-m", "cython", *options, str(source)])
        _record(target, state, files, sources)


def _write_source_hash(folder: Path, value: str) -> tuple[Path, Path]:
    """Write the hash of all sources to a separate C file, so that an edit recompiles only that file and its own."""
    source, header = folder / "source_hash.c", folder / "source_hash.h"
    _write_if_changed(source, f'#include "source_hash.h"\nconst char pyml_source_hash[] = "{value}";\n')
    _write_if_changed(header, "extern const char pyml_source_hash[];\n#define PYML_SOURCE_HASH pyml_source_hash\n")
    return source, header


def _write_if_changed(path: Path, text: str) -> None:
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def _compile(source: Path, target: Path, command: Sequence[str], sources: str) -> None:
    """Compile one file unless the command, the compiler and every included file are unchanged."""
    state = [_version(command[0]), *command, str(source)]  # a copy of the checkout compiles its own sources
    if not _current(target, state):
        depends = _beside(target, ".d")
        _forget(target)
        _call([*command, "-MMD", "-MF", str(depends), "-c", str(source), "-o", str(target)])
        _record(target, state, shlex.split(depends.read_text().replace("\\\n", " ").partition(":")[2]), sources)


def _current(target: Path, state: Sequence[str]) -> bool:
    """Whether ``target`` was built in this state, and its source files are unchanged since."""
    record = _beside(target, ".json")
    if not (target.exists() and record.exists()):
        return False
    old = json.loads(record.read_text())
    return bool(old["key"] == _key(state, old["files"]))


def _record(target: Path, state: Sequence[str], files: Sequence[str], sources: str) -> None:
    """Record what ``target`` was built from, unless a source was edited since the build began.

    The compiler may have read the old text of such a source, or the new one.
    """
    key = _key(state, files)
    if source_hash(PACKAGE) == sources:  # after the key: an edit that comes now is not in it
        _beside(target, ".json").write_text(json.dumps({"key": key, "files": list(files)}))


def _forget(target: Path) -> None:
    """Remove the record of a target that is about to be built anew."""
    _beside(target, ".json").unlink(missing_ok=True)


def _beside(target: Path, ending: str) -> Path:
    return target.with_name(target.name + ending)


def _key(state: Sequence[str], files: Sequence[str]) -> str:
    digest = hashlib.sha256("\0".join(state).encode())
    for path in (ROOT / file for file in files):  # a compiler cache may report relative paths
        digest.update(path.read_bytes() if path.exists() else b"missing")
    return digest.hexdigest()


def _compiler() -> list[str]:
    command = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    if not os.environ.get("CC"):
        # The compiler that built Python may not be installed here; any other will do.
        command = next(([name] for name in (command[0], "cc", "gcc", "clang") if shutil.which(name)), command)
    if not shutil.which(command[0]):
        sys.exit(f"pyml-core needs a C compiler, {command[0]!r} was not found: install Debian's package gcc, or set CC")
    if not _accepts(command, []):
        sys.exit(f"{shlex.join(command)} cannot compile a C file: on Debian install the packages gcc and libc6-dev")
    return command


def _python_include() -> str:
    include = sysconfig.get_path("include")
    if not Path(include, "Python.h").exists():
        sys.exit(f"pyml-core needs Python.h and it is not in {include}: install the Debian package python3-dev")
    return include


def _levels(compiler: list[str]) -> list[str]:
    x86 = platform.machine().lower() in ("x86_64", "amd64") and sys.maxsize > 2**32
    known = X86_LEVELS if x86 else OTHER_LEVELS
    wanted = [level for level in os.environ.get("PYML_LEVELS", "").split(",") if level] or known
    if unknown := [level for level in wanted if level not in known]:
        sys.exit(f"PYML_LEVELS: expected levels of {', '.join(known)}, found {', '.join(unknown)}")
    return [level for level in known if level in ("scalar", *wanted) and _accepts(compiler, LEVELS[level])]


def _accepts(compiler: list[str], flags: list[str]) -> bool:
    """Whether the compiler accepts these flags and finds the C library's headers."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.c")
        source.write_text("#include <stdint.h>\n#include <math.h>\n#include <pthread.h>\nint probe;\n")
        command = [*compiler, *flags, "-c", str(source), "-o", str(source.with_suffix(".o"))]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _version(compiler: str) -> str:
    if compiler not in _VERSIONS:
        done = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
        _VERSIONS[compiler] = done.stdout
    return _VERSIONS[compiler]


_VERSIONS: dict[str, str] = {}


def _call(command: Sequence[str]) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{shlex.join(command)}\n{done.stdout}{done.stderr}pyml-core could not be built")
    if done.stderr:
        print(done.stderr, end="", file=sys.stderr)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Allow one build at a time in a folder."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    install(build())
    print(f"built {(PACKAGE / MODULE).relative_to(ROOT)}")
