"""Loading of a model by a command."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from .output import ProgressBar

if TYPE_CHECKING:
    from ..embedding.embedder import Embedder
    from ..language_model import LanguageModel
    from ..options import LoadOptions


def check_template(model: str | None) -> None:
    """Check that a model has a chat template, before its weights are read.

    Raises:
        ChatTemplateError: it has none. PymlError: it cannot be found or opened.
    """
    from ..formats.gguf import GGUFFile
    from ..formats.packed import PackedFile
    from ..loading import find, open_weights
    from ..tokenizer.config_files import ConfigFiles
    from ..tokenizer.load import packed_tokenizer
    from ..tokenizer.packed import read_metadata

    source = find(model)
    with open_weights(source) as files:
        if isinstance(files, GGUFFile):
            found = any(key.startswith("tokenizer.chat_template") for key in files.metadata)
        elif isinstance(files, PackedFile):
            found = bool(read_metadata(packed_tokenizer(files).description, str(files.path)).chat_templates)
        else:
            found = bool(ConfigFiles(files.path).chat_templates())
    if not found:
        from ..chat.template import no_template

        raise no_template(source.name)


def servable(source: str | None, options: LoadOptions, level: int) -> LanguageModel | Embedder:
    """The model that a server serves: one that writes texts, or an embedding model.

    Raises:
        ArgumentError: an option that needs a model that writes texts.
    """
    from .. import load_embedder
    from ..embedding.loading import is_embedding_model
    from ..errors import ArgumentError
    from ..loading import find

    if source is None or not is_embedding_model(find(source).path):
        return loaded(source, options, level)
    if options.context_length is not None:
        raise ArgumentError(f"is for models that write texts, {source} is an embedding model", "context_length")
    if options.adapters:
        raise ArgumentError(f"is for models that write texts, {source} is an embedding model", "adapters")
    with ProgressBar("Loading", level >= 0) as bar:
        return load_embedder(source, dtype=options.dtype, threads=options.threads, progress=bar)


def loaded(source: str | None, options: LoadOptions, level: int) -> LanguageModel:
    """The model, with one line on stderr that tells of it, or all lines at ``-v``."""
    from pyml_core import cpu

    from .. import load, logs

    logs.root.info("[runtime] SIMD: %s", cpu.level())
    logs.root.info("[runtime] Threads: %d", options.threads or cpu.default_threads())
    start = time.perf_counter()
    with ProgressBar("Loading", level >= 0) as bar:
        lm = load(source, options, progress=bar)
    name = Path(lm.name).name if Path(lm.name).exists() else lm.name  # of a file or folder; else a hub id
    logs.command.info("Loaded %s in %.2f s", name, time.perf_counter() - start)
    return lm
