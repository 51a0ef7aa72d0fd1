"""pyml_nn: layers, KV cache and architectures of language models on pyml_core's kernels. Ids in, logits out."""

from __future__ import annotations

from pyml_core import __version__ as __version__

from .batching import SequenceInput
from .cache import KVCache
from .errors import CacheFileError, ConfigError, ContextOverflowError, WeightsError
from .memory import MemoryPlan, available_memory
from .model import Model
from .models import ARCHITECTURES, architecture_of
from .trace import Event, Trace
from .trace.lines import attention_lines, forward_lines, matmul_lines
from .weights import ArrayWeights, WeightSource

__all__ = [
    "ARCHITECTURES",
    "ArrayWeights",
    "CacheFileError",
    "ConfigError",
    "ContextOverflowError",
    "Event",
    "KVCache",
    "MemoryPlan",
    "Model",
    "SequenceInput",
    "Trace",
    "WeightSource",
    "WeightsError",
    "architecture_of",
    "attention_lines",
    "available_memory",
    "forward_lines",
    "matmul_lines",
]
