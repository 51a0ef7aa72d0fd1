"""Information about a model from the headers of its files, without reading weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .loading import ModelPath, describe, find, open_weights


@dataclass(frozen=True)
class ModelInfo:
    """A model's files, and the sizes in its configuration.

    Attributes:
        name: the path or hub id that it was found by.
        path: its GGUF file or its folder.
        architecture: as the files call it (``"gemma3"``).
        context_length: maximum number of positions of a sequence.
        n_layers: number of layers.
        vocab_size: number of rows of the embedding.
    """

    name: str
    path: Path
    architecture: str
    context_length: int
    n_layers: int
    vocab_size: int


def model_info(model: ModelPath | None = None) -> ModelInfo:
    """Find a model, download it if necessary, and read its configuration.

    Args:
        model: see :func:`pyml_nlp.load`.

    Raises:
        ModelNotFoundError: the model does not exist.
        ModelFileError: a file is malformed or not supported.
        ConfigError: the architecture is unknown, or the configuration is malformed or not supported.
    """
    source = find(model)
    with open_weights(source) as files:
        description = describe(files)
    config = description.config
    return ModelInfo(
        source.name, source.path, description.name, config.context_length, config.n_layers, config.vocab_size
    )
