"""Traces: what a model does and how long each part takes, as data, files and lines."""

from __future__ import annotations

from .events import Event
from .recorder import Recorder
from .trace import Trace, traces_of

__all__ = ["Event", "Recorder", "Trace", "traces_of"]
