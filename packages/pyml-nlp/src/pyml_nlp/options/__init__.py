"""What a user can choose, as objects: frozen, and validated when they are made.

Each class has a dictionary type of the same names, for keyword arguments: ``lm.generate(prompt, temperature=0.5)`` is
``lm.generate(prompt, lm.generation_options.replace(temperature=0.5))``. Names are loaded when they are first used.
"""

from __future__ import annotations

TYPE_CHECKING = False  # in place of typing's, whose import takes milliseconds
if TYPE_CHECKING:
    from typing import Any

    from .chat import ChatOptions as ChatOptions
    from .generation import DEFAULT_SAMPLING as DEFAULT_SAMPLING
    from .generation import GenerationOptions as GenerationOptions
    from .keywords import ChatGenerationKeywords as ChatGenerationKeywords
    from .keywords import ChatKeywords as ChatKeywords
    from .keywords import GenerationKeywords as GenerationKeywords
    from .keywords import LoadKeywords as LoadKeywords
    from .keywords import SamplingKeywords as SamplingKeywords
    from .load import LoadOptions as LoadOptions
    from .sampling import ORDER as ORDER
    from .sampling import SamplingOptions as SamplingOptions

_HOME = {
    "ChatGenerationKeywords": "keywords",
    "ChatKeywords": "keywords",
    "ChatOptions": "chat",
    "DEFAULT_SAMPLING": "generation",
    "GenerationKeywords": "keywords",
    "GenerationOptions": "generation",
    "LoadKeywords": "keywords",
    "LoadOptions": "load",
    "ORDER": "sampling",
    "SamplingKeywords": "keywords",
    "SamplingOptions": "sampling",
}

__all__ = [
    "DEFAULT_SAMPLING",
    "ORDER",
    "ChatGenerationKeywords",
    "ChatKeywords",
    "ChatOptions",
    "GenerationKeywords",
    "GenerationOptions",
    "LoadKeywords",
    "LoadOptions",
    "SamplingKeywords",
    "SamplingOptions",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # only for the names above

    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value
