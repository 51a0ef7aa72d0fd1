"""Control of ``preloaded.c``: which allocation fails, the content of fresh memory, the number of processors."""

from __future__ import annotations

import ctypes
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

LIBRARY = "PYML_PRELOADED"
"""Environment variable of a process that has it preloaded: the library's path."""

NATIVE = "_native."
"""In the file name of pyml's compiled module."""

SET_HANDLER = 304
"""Where ``PyDataMem_SetHandler`` is in NumPy's table of functions."""


def build(folder: Path) -> Path:
    """Compile the library into a folder."""
    library = folder / "preloaded.so"
    compiler = shlex.split(os.environ.get("CC", "cc"))
    flags = ["-O1", "-g", "-std=c11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-fvisibility=hidden"]
    subprocess.run([*compiler, *flags, str(Path(__file__).with_name("preloaded.c")), "-o", str(library)], check=True)
    return library


def environment(library: Path) -> dict[str, str]:
    """Of a process that has it preloaded, before a sanitizer if there is one; all memory comes from the C library."""
    preload = f"{library} {os.environ.get('LD_PRELOAD', '')}".strip()
    asan = f"{os.environ.get('ASAN_OPTIONS', '')}:verify_asan_link_order=0".strip(":")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "LD_PRELOAD": preload,
        "ASAN_OPTIONS": asan,
        "PYTHONMALLOC": "malloc",
        LIBRARY: str(library),
    }


def run(library: Path, arguments: Sequence[str], timeout: float) -> str:
    """The output of ``repeat.py`` in a process with the library; AssertionError with it if the process fails."""
    command = [sys.executable, "-m", "tests.native.repeat", *arguments]
    done = subprocess.run(
        command, env=environment(library), capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    return done.stdout


class Preloaded:
    """The library, in a process that has it preloaded."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(os.environ[LIBRARY])
        self._library.preloaded_disarm.restype = ctypes.c_long
        self._library.preloaded_arm.argtypes, self._library.preloaded_arm.restype = [ctypes.c_long], None
        self._library.preloaded_arrays.restype = ctypes.c_void_p
        self._handle_arrays()

    def watch(self, what: str) -> None:
        """Count the calls of pyml's module, or those that others make for it, and no more.

        Args:
            what: ``"native"``: its own; ``"arrays"``: NumPy's for the data of arrays, for any caller; ``"cython"``:
                the interpreter's for pyml's module; ``"python"``: those and the interpreter's for Python code.
        """
        found = True
        if what == "native":
            found = self._library.preloaded_watch(NATIVE.encode())
        elif what == "arrays":
            self._library.preloaded_watch_arrays()
        else:
            found = self._library.preloaded_watch_interpreter(NATIVE.encode(), what == "python")
        if not found:
            raise LookupError(f"{what}: not loaded")

    def _handle_arrays(self) -> None:
        """From now on the data of this thread's new arrays comes from the library."""
        api = ctypes.pythonapi
        api.PyCapsule_GetPointer.restype = ctypes.c_void_p
        api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
        api.PyCapsule_New.restype = ctypes.py_object
        api.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        table = api.PyCapsule_GetPointer(np._core.multiarray._ARRAY_API, None)  # type: ignore[attr-defined]
        set_handler = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(
            ctypes.cast(table, ctypes.POINTER(ctypes.c_void_p))[SET_HANDLER]
        )
        set_handler(api.PyCapsule_New(self._library.preloaded_arrays(), b"mem_handler", None))

    def arm(self, number: int) -> None:
        """Let this call fail, the first one from now on being 1."""
        self._library.preloaded_arm(number)

    def disarm(self) -> int:
        """Let none fail any more; how many calls there were."""
        try:
            return int(self._library.preloaded_disarm())
        except MemoryError:  # it was this very call's turn
            return int(self._library.preloaded_disarm())

    def fill(self, byte: int) -> None:
        """Fill fresh memory with a byte; -1: leave it."""
        self._library.preloaded_fill(byte)

    def processors(self, count: int) -> None:
        """Report this number of processors; 0: the real one."""
        self._library.preloaded_processors(count)
