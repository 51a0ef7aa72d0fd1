"""Traces: times of operations and tensors of a model's runs, as data, files and lines of the log."""

from __future__ import annotations

from .events import Event
from .lines import attention_lines, forward_lines, matmul_lines
from .recorder import Recorder
from .trace import Trace, traces_of

__all__ = ["Event", "Recorder", "Trace", "attention_lines", "forward_lines", "matmul_lines", "traces_of"]
