"""pyml_core: tensors and kernels for language models on CPUs. Quantised matrix products and attention on NumPy arrays.

Example::

    import numpy as np, pyml_core
    weight = pyml_core.pack(pyml_core.quantize(np.random.randn(512, 256).astype("f4"), "q8_0"), "q8_0", (512, 256))
    print(pyml_core.matmul(np.ones((1, 256), "f4"), weight).shape)
"""

from __future__ import annotations

from . import _build_check, _native

_build_check.check(_native.SOURCE_HASH)

from ._version import __version__ as __version__  # noqa: E402
from .block_types import BLOCK_TYPES, BlockType  # noqa: E402
from .cancel import CancelToken  # noqa: E402
from .cpu import cpu_info, default_threads, level, levels, use_level  # noqa: E402
from .dtypes import dequantize, quantize  # noqa: E402
from .errors import Cancelled, OutOfMemoryError, PymlError, ShapeError  # noqa: E402
from .functional import activate, argmax, attention, gated, layer_norm, matmul, rms_norm, rope, softmax, top_k  # noqa: E402
from .graph import Buffer, Operation, Slice  # noqa: E402
from .kv_layout import PAGE_TOKENS, KVLayout, PageTable  # noqa: E402
from .limits import Limits, measure_limits  # noqa: E402
from .observe import Observer  # noqa: E402
from .program import Program  # noqa: E402
from .tensor import PackedMatrix, Tensor, pack, pack_parts  # noqa: E402
from .timing import Capture, OpTiming, ThreadSpan, Timings  # noqa: E402
from .want import AllLogits, Greedy, GreedyToken, Top, TopLogits  # noqa: E402

__all__ = [
    "BLOCK_TYPES",
    "PAGE_TOKENS",
    "AllLogits",
    "BlockType",
    "Buffer",
    "CancelToken",
    "Cancelled",
    "Capture",
    "Greedy",
    "GreedyToken",
    "KVLayout",
    "Limits",
    "Observer",
    "OpTiming",
    "Operation",
    "OutOfMemoryError",
    "PackedMatrix",
    "PageTable",
    "Program",
    "PymlError",
    "ShapeError",
    "Slice",
    "Tensor",
    "ThreadSpan",
    "Timings",
    "Top",
    "TopLogits",
    "activate",
    "argmax",
    "attention",
    "cpu_info",
    "default_threads",
    "dequantize",
    "gated",
    "layer_norm",
    "level",
    "levels",
    "matmul",
    "measure_limits",
    "pack",
    "pack_parts",
    "quantize",
    "rms_norm",
    "rope",
    "softmax",
    "top_k",
    "use_level",
]
