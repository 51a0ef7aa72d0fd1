"""Loading of an :class:`.Embedder` from a path or a hub id."""

from __future__ import annotations

from pathlib import Path

from pyml_core.errors import PymlError, quoted
from pyml_nn import ConfigError, WeightsError
from pyml_nn.causal_encoder import causal_encoder
from pyml_nn.models import ARCHITECTURES, ENCODERS

from .. import logs
from ..errors import ModelFileError
from ..formats.config import read_json
from ..formats.safetensors import SafetensorsFolder
from ..loading import ModelPath, Progress, ProgressSource, find, naming, open_weights
from ..options.load import LoadOptions
from ..tokenizer.load import load_tokenizer
from ..values import progress_function
from .embedder import Embedder
from .settings import MODULES, read_settings


def is_embedding_model(path: Path) -> bool:
    """Whether a path is the folder of an embedding model; False, too, if that cannot be read."""
    try:
        kind = read_json(path / "config.json").get("model_type")
    except (PymlError, OSError):
        return False
    return kind in ENCODERS or (kind in ARCHITECTURES and (path / MODULES).exists())


def load_embedder(
    model: ModelPath, *, dtype: str = "auto", threads: int | None = None, progress: Progress | None = None
) -> Embedder:
    """Load an embedding model.

    Args:
        model: a folder in Hugging Face layout, or a hub id (from its cache or downloaded).
        dtype: type of the weights in memory: ``f32`` (and f32 arithmetic), ``bf16``, ``q8_0`` or ``q4_0``; ``auto``:
            ``q8_0``.
        threads: number of worker threads; None: what suits the machine.
        progress: called while weights are read, with the bytes read so far and the bytes to read.

    Raises:
        ModelNotFoundError: there is no such model.
        ModelFileError: a file is malformed or not supported.
        ConfigError, WeightsError: a configuration or weights that are not understood, or no encoder's.
        OutOfMemoryError: the model would not fit in memory; nothing has been read.
        ArgumentError: a value of the wrong type or out of its range.
    """
    logs.configure_from_environment()
    options, progress = LoadOptions(dtype=dtype, threads=threads), progress_function(progress)
    source = find(model)
    with open_weights(source) as files:
        if not isinstance(files, SafetensorsFolder):
            raise ModelFileError(f"{source.path}: expected the folder of an embedding model in Hugging Face layout")
        where, kind = files.path / "config.json", files.config["model_type"]
        causal = kind in ARCHITECTURES and (files.path / MODULES).exists()
        if kind not in ENCODERS and not causal:
            other = ", which writes texts: pyml_nlp.load loads it" if kind in ARCHITECTURES else ""
            raise ConfigError(
                f"{where}: model_type: expected an encoder ({', '.join(ENCODERS)}), found {quoted(kind)}{other}"
            )
        architecture = ARCHITECTURES[kind] if causal else ENCODERS[kind]
        config = architecture.Config.from_hf(files.config, str(where))
        network = causal_encoder(architecture) if causal else architecture.Model
        settings, tokenizer = read_settings(files.path), load_tokenizer(files.path)
        reported = ProgressSource(files, progress)
        try:
            encoder = network(config, reported, options.dtype, options.threads)
        except (ConfigError, WeightsError) as error:
            raise naming(source.path, error) from None
        reported.report(reported.total)
    return Embedder(encoder, tokenizer, settings, source.name)
