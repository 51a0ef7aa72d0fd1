"""pyml_nn: layers, KV cache and architectures of language models on pyml_core's kernels. Ids in, logits out.

Layers are in :mod:`pyml_nn.layers`, architectures in :mod:`pyml_nn.models`.
"""

from __future__ import annotations

from pyml_core import __version__ as __version__

from .batching import SequenceInput
from .cache import KVCache
from .errors import CacheFileError, ConfigError, ContextOverflowError, WeightsError
from .memory import MemoryPlan, available_memory
from .model import Model
from .models import ARCHITECTURES, architecture_of
from .trace import Event, Trace, attention_lines, forward_lines, matmul_lines
from .weights import ArrayWeights, WeightSource

__all__ = [  # noqa: RUF022, in groups
    # building models
    "ARCHITECTURES",
    "architecture_of",
    "ArrayWeights",
    "WeightSource",
    "MemoryPlan",
    "available_memory",
    # running them
    "Model",
    "SequenceInput",
    "KVCache",
    # traces
    "Event",
    "Trace",
    "attention_lines",
    "forward_lines",
    "matmul_lines",
    # errors
    "CacheFileError",
    "ConfigError",
    "ContextOverflowError",
    "WeightsError",
]
