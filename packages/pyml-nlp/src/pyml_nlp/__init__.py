"""pyml_nlp: text from language models on ordinary CPUs.

>>> import pyml_nlp
>>> lm = pyml_nlp.load("model.gguf")
>>> lm.generate_text("The capital of France is", max_tokens=8)

Importing this package imports no other module: every name below is loaded on first use.
"""

from __future__ import annotations

TYPE_CHECKING = False  # not typing's, whose import takes milliseconds
if TYPE_CHECKING:
    from pyml_core.errors import Cancelled as Cancelled
    from pyml_core.errors import OutOfMemoryError as OutOfMemoryError
    from pyml_core.errors import PymlError as PymlError
    from pyml_core.errors import ShapeError as ShapeError
    from pyml_nn.cache import KVCache as KVCache
    from pyml_nn.errors import CacheFileError as CacheFileError
    from pyml_nn.errors import ConfigError as ConfigError
    from pyml_nn.errors import ContextOverflowError as ContextOverflowError
    from pyml_nn.errors import WeightsError as WeightsError
    from pyml_nn.trace import Trace as Trace

    from .chat.conversation import Conversation as Conversation
    from .embedding.embedder import Embedder as Embedder
    from .embedding.loading import load_embedder as load_embedder
    from .errors import ArgumentError as ArgumentError
    from .errors import ChatTemplateError as ChatTemplateError
    from .errors import ModelFileError as ModelFileError
    from .errors import ModelNotFoundError as ModelNotFoundError
    from .errors import QueueFullError as QueueFullError
    from .evaluation import TokenScore as TokenScore
    from .generation.batch import Batch as Batch
    from .generation.completion import Completion as Completion
    from .generation.completion import Step as Step
    from .generation.iterator import Generation as Generation
    from .generation.request import Request as Request
    from .generation.text_stream import TextStream as TextStream
    from .inspection import ModelInfo as ModelInfo
    from .inspection import model_info as model_info
    from .jobs.errors import IdentityError as IdentityError
    from .jobs.errors import JobError as JobError
    from .jobs.errors import ManifestError as ManifestError
    from .jobs.errors import ShardBusy as ShardBusy
    from .jobs.errors import Stopped as Stopped
    from .language_model import LanguageModel as LanguageModel
    from .loading import load as load
    from .logs import LogSpecError as LogSpecError
    from .options.chat import ChatOptions as ChatOptions
    from .options.generation import GenerationOptions as GenerationOptions
    from .options.load import LoadOptions as LoadOptions
    from .options.sampling import SamplingOptions as SamplingOptions
    from .packing import pack as pack
    from .structured.grammar import Grammar as Grammar
    from .structured.grammar import GrammarError as GrammarError
    from .tokenizer.base import TextError as TextError
    from .tokenizer.base import TokenIdError as TokenIdError

    __version__: str

_HOME = {
    # entry
    "Conversation": "pyml_nlp.chat.conversation",
    "Embedder": "pyml_nlp.embedding.embedder",
    "LanguageModel": "pyml_nlp.language_model",
    "load": "pyml_nlp.loading",
    "load_embedder": "pyml_nlp.embedding.loading",
    "model_info": "pyml_nlp.inspection",
    "pack": "pyml_nlp.packing",
    # options
    "ChatOptions": "pyml_nlp.options.chat",
    "GenerationOptions": "pyml_nlp.options.generation",
    "Grammar": "pyml_nlp.structured.grammar",
    "LoadOptions": "pyml_nlp.options.load",
    "Request": "pyml_nlp.generation.request",
    "SamplingOptions": "pyml_nlp.options.sampling",
    # results
    "Batch": "pyml_nlp.generation.batch",
    "Completion": "pyml_nlp.generation.completion",
    "Generation": "pyml_nlp.generation.iterator",
    "KVCache": "pyml_nn.cache",
    "ModelInfo": "pyml_nlp.inspection",
    "Step": "pyml_nlp.generation.completion",
    "TextStream": "pyml_nlp.generation.text_stream",
    "TokenScore": "pyml_nlp.evaluation",
    "Trace": "pyml_nn.trace",
    # errors
    "ArgumentError": "pyml_nlp.errors",
    "CacheFileError": "pyml_nn.errors",
    "Cancelled": "pyml_core.errors",
    "ChatTemplateError": "pyml_nlp.errors",
    "ConfigError": "pyml_nn.errors",
    "ContextOverflowError": "pyml_nn.errors",
    "GrammarError": "pyml_nlp.structured.grammar",
    "IdentityError": "pyml_nlp.jobs.errors",
    "JobError": "pyml_nlp.jobs.errors",
    "LogSpecError": "pyml_nlp.logs",
    "ManifestError": "pyml_nlp.jobs.errors",
    "ModelFileError": "pyml_nlp.errors",
    "ModelNotFoundError": "pyml_nlp.errors",
    "OutOfMemoryError": "pyml_core.errors",
    "PymlError": "pyml_core.errors",
    "QueueFullError": "pyml_nlp.errors",
    "ShapeError": "pyml_core.errors",
    "ShardBusy": "pyml_nlp.jobs.errors",
    "Stopped": "pyml_nlp.jobs.errors",
    "TextError": "pyml_nlp.tokenizer.base",
    "TokenIdError": "pyml_nlp.tokenizer.base",
    "WeightsError": "pyml_nn.errors",
}

__all__ = [  # noqa: RUF022 (in groups)
    # entry: from a path to texts
    "Conversation",
    "Embedder",
    "LanguageModel",
    "load",
    "load_embedder",
    "model_info",
    "pack",
    # options: validated when they are made
    "ChatOptions",
    "GenerationOptions",
    "Grammar",
    "LoadOptions",
    "Request",
    "SamplingOptions",
    # results: what methods return
    "Batch",
    "Completion",
    "Generation",
    "KVCache",
    "ModelInfo",
    "Step",
    "TextStream",
    "TokenScore",
    "Trace",
    # errors: docs/errors.md says when each is raised
    "ArgumentError",
    "CacheFileError",
    "Cancelled",
    "ChatTemplateError",
    "ConfigError",
    "ContextOverflowError",
    "GrammarError",
    "IdentityError",
    "JobError",
    "LogSpecError",
    "ManifestError",
    "ModelFileError",
    "ModelNotFoundError",
    "OutOfMemoryError",
    "PymlError",
    "QueueFullError",
    "ShapeError",
    "ShardBusy",
    "Stopped",
    "TextError",
    "TokenIdError",
    "WeightsError",
]


if not TYPE_CHECKING:  # a name that is not exported is an error for type checkers

    def __getattr__(name: str) -> object:
        if name == "__version__":
            from importlib.metadata import version

            return version("pyml-nlp")
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(_HOME[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
