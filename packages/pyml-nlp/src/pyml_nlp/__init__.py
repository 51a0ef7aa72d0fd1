"""pyml_nlp: text from language models on ordinary CPUs.

>>> import pyml_nlp
>>> lm = pyml_nlp.load("model.gguf")
>>> lm.generate_text("The capital of France is", max_tokens=8)

Importing this package imports nothing else: every name below is loaded when it is first used.
"""

from __future__ import annotations

TYPE_CHECKING = False  # in place of typing's, whose import takes milliseconds
if TYPE_CHECKING:
    from typing import Any

    from .generation.completion import Completion as Completion
    from .generation.completion import Step as Step
    from .generation.generator import Generator as Generator
    from .generation.iterator import Generation as Generation
    from .generation.request import Request as Request
    from .language_model import LanguageModel as LanguageModel
    from .loading import load as load
    from .sampling import Sampling as Sampling

_HOME = {
    "Completion": "generation.completion",
    "Generation": "generation.iterator",
    "Generator": "generation.generator",
    "LanguageModel": "language_model",
    "Request": "generation.request",
    "Sampling": "sampling",
    "Step": "generation.completion",
    "load": "loading",
}

__all__ = ["Completion", "Generation", "Generator", "LanguageModel", "Request", "Sampling", "Step", "load"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("pyml-nlp")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
