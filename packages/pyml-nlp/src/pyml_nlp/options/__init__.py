"""What a user can choose, as objects: frozen, and validated when they are made.

Each class has a dictionary type of the same names, for keyword arguments: ``lm.generate(prompt, temperature=0.5)`` is
``lm.generate(prompt, lm.generation_options.replace(temperature=0.5))``.
"""

from __future__ import annotations

from .chat import ChatOptions
from .generation import DEFAULT_SAMPLING, ERROR, POLICIES, SHIFT, GenerationOptions
from .keywords import ChatKeywords, GenerationKeywords, LoadKeywords
from .load import LoadOptions
from .sampling import GREEDY_BELOW, ORDER, PENALTIES, SamplingOptions
from .sampling_keywords import SamplingKeywords

__all__ = [
    "DEFAULT_SAMPLING",
    "ERROR",
    "GREEDY_BELOW",
    "ORDER",
    "PENALTIES",
    "POLICIES",
    "SHIFT",
    "ChatKeywords",
    "ChatOptions",
    "GenerationKeywords",
    "GenerationOptions",
    "LoadKeywords",
    "LoadOptions",
    "SamplingKeywords",
    "SamplingOptions",
]
