"""pyml_core: tensors and kernels for language models on CPUs. Quantised matrix products and attention on NumPy arrays.

Example::

    import numpy as np, pyml_core
    weight = pyml_core.pack(pyml_core.quantize(np.random.randn(512, 256).astype("f4"), "q8_0"), "q8_0", (512, 256))
    print(pyml_core.matmul(np.ones((1, 256), "f4"), weight).shape)

The submodules have the rest: ``block_types``, timings and captures of runs in ``timing`` and ``observe``, KV pages in
``kv_layout``, CPU levels and threads in ``cpu``, the NumPy formulas in ``reference``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import _build_check, _native

_build_check.check(_native.SOURCE_HASH)

from ._version import __version__ as __version__  # noqa: E402
from .cancel import CancelToken  # noqa: E402
from .cpu import cpu_info  # noqa: E402
from .dtypes import dequantize, quantize  # noqa: E402
from .errors import Cancelled, OutOfMemoryError, PymlError, ShapeError  # noqa: E402
from .kv_layout import KVLayout  # noqa: E402
from .program import Program  # noqa: E402
from .records import Slice  # noqa: E402
from .tensor import Tensor, pack  # noqa: E402
from .want import AllLogits, Choice, Sample, SampledToken, Sampler, Top, TopLogits  # noqa: E402

if TYPE_CHECKING:
    from .functional import activate, attention, gated, layer_norm, matmul, rms_norm, rope

__all__ = [  # noqa: RUF022 (by group)
    # Arrays in
    "Tensor",
    "dequantize",
    "pack",
    "quantize",
    # Arrays out
    "activate",
    "attention",
    "gated",
    "layer_norm",
    "matmul",
    "rms_norm",
    "rope",
    # Programs, the options of a run, and its results
    "KVLayout",
    "Program",
    "Slice",
    "AllLogits",
    "Top",
    "TopLogits",
    "Sample",
    "Choice",
    "Sampler",
    "SampledToken",
    # This machine
    "cpu_info",
    # Errors and cancellation
    "CancelToken",
    "Cancelled",
    "OutOfMemoryError",
    "PymlError",
    "ShapeError",
]

_ARRAYS_OUT = ("activate", "attention", "gated", "layer_norm", "matmul", "rms_norm", "rope")

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Import the functions on arrays at their first use: models do not need them."""
        if name in _ARRAYS_OUT:
            from . import functional

            return getattr(functional, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_ARRAYS_OUT})
