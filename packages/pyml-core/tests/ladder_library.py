"""Compiles the ladders of ``csrc/ladder`` and calls them."""

from __future__ import annotations

import ctypes
import os
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import pyml_core

F32Array = npt.NDArray[np.float32]

CSRC = Path(pyml_core.__file__).parent / "csrc"
FLAGS = ["-O3", "-std=c11", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"]
"""The flags of the kernels, with warnings as errors."""
ATTENTION_STEPS = 4
LINEAR_STEPS = 4


def compiler() -> list[str]:
    """Return the C compiler, as in ``hatch_build.py``: ``CC``, or this machine's."""
    return shlex.split(os.environ.get("CC", "cc"))


class Ladder:
    """The compiled ladders. Arrays must be contiguous.

    Args:
        folder: folder for the library.
        flags: additional compiler options.
    """

    def __init__(self, folder: Path, flags: Sequence[str] = ()) -> None:
        library = folder / "ladder.so"
        sources = [str(path) for path in sorted((CSRC / "ladder").glob("*.c"))]
        command = [*compiler(), *FLAGS, *flags, "-shared", "-fPIC", *sources, "-lm", "-o", str(library)]
        subprocess.run(command, check=True)
        self._library = ctypes.CDLL(str(library))

    def attention(
        self,
        step: int,
        q: F32Array,
        keys: F32Array,
        values: F32Array,
        pages: Sequence[npt.NDArray[np.uint8]],
        scale: float,
    ) -> F32Array:
        """Run a step for one query (D) over keys and values: arrays (L, D) for steps 0 and 1, pages for 2 and 3."""
        out = np.empty_like(q)
        memory: list[Any] = [_pointer(keys), _pointer(values)]
        if step >= 2:
            memory = [(ctypes.c_void_p * len(pages))(*(page.ctypes.data for page in pages))]
        sizes = [ctypes.c_int64(size) for size in keys.shape]
        getattr(self._library, f"attention_v{step}")(_pointer(q), *memory, *sizes, ctypes.c_float(scale), _pointer(out))
        return out

    def linear(
        self, step: int, stored: npt.NDArray[np.uint8], packed: npt.NDArray[np.uint8], rows: int, x: F32Array
    ) -> F32Array:
        """Run a step for x (T, K) and a q8_0 matrix of N ``rows``: stored for steps 0 and 1, packed for 2 and 3."""
        out = np.empty((len(x), rows), np.float32)
        weight = packed if step >= 2 else stored
        sizes = [ctypes.c_int64(size) for size in (len(x), rows, x.shape[1])]
        getattr(self._library, f"linear_v{step}")(_pointer(weight), _pointer(x), *sizes, _pointer(out))
        return out


def _pointer(array: npt.NDArray[Any]) -> ctypes.c_void_p:
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)
