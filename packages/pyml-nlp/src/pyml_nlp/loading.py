"""Loading of a :class:`LanguageModel` from a path, a hub id or the default model.

(The module is not called ``load``: importing a module of that name would replace the function :func:`pyml_nlp.load`.)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from pyml_core.errors import PymlError, quoted
from pyml_core.from_file import Part
from pyml_core.tensor import PackedMatrix, Tensor
from pyml_nn import ConfigError, WeightsError
from pyml_nn.models import architecture_of

from . import logs
from .background import BackgroundCall
from .errors import ArgumentError, changed_since_pickling
from .formats.adapter import read_adapter
from .formats.gguf import GGUFFile
from .formats.packed import PackedFile
from .formats.safetensors import SafetensorsFolder
from .generation.prefix_cache import PrefixCache
from .language_model import LanguageModel
from .options.adapters import adapter_files
from .options.checks import instance
from .options.defaults import from_generation_config, from_gguf
from .options.generation import GenerationOptions
from .options.load import LoadOptions
from .pickling import Origin, fingerprint
from .source import Source, is_hub_id, resolve
from .tokenizer import Tokenizer, load_tokenizer
from .tokenizer.load import packed_tokenizer, tokenizer_files
from .tokenizer.packed import deferred
from .values import progress_function

if TYPE_CHECKING:
    from typing import Unpack

    from pyml_nn.adapters import Adapter
    from pyml_nn.model import Model
    from pyml_nn.weights import Spec, Weights

    from .options.keywords import LoadKeywords

T = TypeVar("T")

Progress = Callable[[int, int], None]
"""Called with the bytes read so far and all bytes to read."""

ModelPath = str | os.PathLike[str]

OriginalFiles = GGUFFile | SafetensorsFolder
"""The open files of a model as it was published."""

ModelFiles = OriginalFiles | PackedFile
"""The open files of a model."""


def load(
    model: ModelPath | None = None,
    options: LoadOptions | None = None,
    *,
    progress: Progress | None = None,
    **changes: Unpack[LoadKeywords],
) -> LanguageModel:
    """Load a language model.

    Args:
        model: a ``.gguf`` file (any part of a split model), a folder in Hugging Face layout, a packed model
            (:func:`pyml_nlp.pack`), or a hub id (from its cache or downloaded). None: the model that the environment
            variable ``PYML_MODEL`` names, else the embedded default, Gemma 3 270M.
        options: how to load it; None: :class:`LoadOptions` without arguments.
        progress: called while weights are read, with the bytes read so far and the bytes to read.
        changes: options that differ, as keywords: fields of :class:`LoadOptions` (``dtype``, ``threads``,
            ``context_length``). None means that an option is not given.

    Raises:
        ModelNotFoundError: there is no such model.
        ModelFileError: a file is malformed or not supported.
        ConfigError, WeightsError: a configuration or weights that are not understood.
        OutOfMemoryError: the model, or a sequence of ``context_length``, would not fit in memory; nothing has been
            read.
        ArgumentError: an unknown option, or a value of the wrong type or out of its range.
    """
    logs.configure_from_environment()
    options = (LoadOptions() if options is None else instance("options", options, LoadOptions)).replace(**changes)
    progress = progress_function(progress)
    source = find(model)
    with open_weights(source) as files:
        description = describe(files, options.allow_unknown_keys)
        if isinstance(files, PackedFile):
            packed = packed_tokenizer(files)
            loaded = _load_weights(source, files, description, options, progress)
            # The libraries keep the GIL while they make a tokenizer, so this comes last.
            lm = _language_model(source, files, loaded, deferred(packed, files.path), options)
        else:
            lm = _load_original(source, files, description, options, progress)
    lm.origin = Origin(source.path.absolute(), source.name, options, reload_model)
    return lm


def _load_original(
    source: Source,
    files: OriginalFiles,
    description: Description,
    options: LoadOptions,
    progress: Progress | None,
) -> LanguageModel:
    if isinstance(files, SafetensorsFolder):
        tokenizer_files(files.path)  # checks that there is a tokenizer before weights are read
    # perf: cold.py. Tokenizers are loaded by libraries that release the GIL, while weights are read.
    tokenizer = BackgroundCall(lambda: load_tokenizer(files if isinstance(files, GGUFFile) else files.path))
    try:
        loaded = _load_weights(source, files, description, options, progress)
    except Exception:
        tokenizer.result()  # an error of the tokenizer comes first
        raise
    return _language_model(source, files, loaded, tokenizer.result(), options)


def reload_model(origin: Origin, expected: str) -> LanguageModel:
    """Load a pickled model again.

    Raises:
        ModelFileError: it has another fingerprint than the pickled one.
    """
    lm = load(origin.path, origin.options)
    if fingerprint(lm.engine) != expected:
        lm.close()
        raise changed_since_pickling(origin.path, "model")
    lm.name = origin.name
    return lm


def find(model: ModelPath | None) -> Source:
    """Find the model's files on this machine, and download them if necessary; see :func:`pyml_nlp.source.resolve`.

    Raises:
        ArgumentError: ``model`` is neither a path nor a text.
        ModelNotFoundError: the model does not exist.
    """
    if model is not None and not isinstance(model, str | os.PathLike):
        raise ArgumentError(f"must be a path or a hub id, got {quoted(model)}", "model")
    try:
        return resolve(model, logs.source.info)
    except PymlError as error:
        if model is not None and is_hub_id(os.fspath(model)):
            raise type(error)(f"Failed to download model: {error}") from None
        raise


def generation_defaults(files: ModelFiles) -> GenerationOptions:
    """The default options of a model, see :mod:`pyml_nlp.options.defaults`."""
    if isinstance(files, GGUFFile):
        return from_gguf(files.metadata, str(files.path))
    if isinstance(files, PackedFile):
        if files.gguf:
            return from_gguf(files.config, str(files.path))
        return from_generation_config(files.generation_config, str(files.path))
    return from_generation_config(files.generation_config, str(files.path / "generation_config.json"))


def open_weights(source: Source) -> ModelFiles:
    """Open a model's file or folder, and check its headers without reading weights.

    Raises:
        ModelNotFoundError, ModelFileError: a file is missing or malformed.
    """
    if source.kind == "folder":
        logs.load.info("Loading SafeTensors: %s", source.path)
        return SafetensorsFolder(source.path)
    if source.kind == "packed":
        logs.load.info("Loading packed model: %s", source.path)
        return PackedFile(source.path)
    logs.load.info("Loading GGUF: %s", source.path)
    try:
        file = GGUFFile(source.path)
    except PymlError as error:
        raise type(error)(f"Failed to parse GGUF: {error}") from None
    logs.load.info("  GGUF v%d, %d tensors", file.version, len(file.tensors))
    return file


@dataclass(frozen=True)
class Description:
    """A model's architecture and configuration.

    Attributes:
        architecture: its module of :mod:`pyml_nn.models`.
        name: the architecture's name in the files.
        config: the architecture's configuration.
    """

    architecture: ModuleType
    name: str
    config: Any


def describe(files: ModelFiles, allow_unknown_keys: bool = False) -> Description:
    """Read the configuration; ``allow_unknown_keys`` as in :class:`LoadOptions`.

    Raises:
        ConfigError: the architecture is unknown, or the configuration is malformed or not supported.
    """
    if isinstance(files, GGUFFile) or (isinstance(files, PackedFile) and files.gguf):
        metadata = files.metadata if isinstance(files, GGUFFile) else files.config
        architecture = architecture_of(metadata, str(files.path))
        try:
            config = architecture.Config.from_gguf(metadata, allow_unknown_keys)
        except PymlError as error:
            raise type(error)(f"{files.path}: {error}") from None
        return Description(architecture, str(metadata["general.architecture"]), config)
    where = files.path if isinstance(files, PackedFile) else files.path / "config.json"
    architecture = architecture_of(files.config, str(where))
    config = architecture.Config.from_hf(files.config, str(where), allow_unknown_keys)
    return Description(architecture, str(files.config["model_type"]), config)


def weight_source(
    files: ModelFiles, specs: Mapping[str, Spec], dtype: str = "auto"
) -> Weights | GGUFFile | SafetensorsFolder:
    """Return what a model with these weights reads from its files, as :class:`pyml_nn.Model` takes it.

    Raises:
        WeightsError: a packed model does not fit, or was packed with another dtype.
        ModelFileError: a packed model is damaged.
    """
    if not isinstance(files, PackedFile):
        return files
    weights = files.weights(specs)
    if dtype not in ("auto", weights.dtype):
        raise WeightsError(
            f"{files.path}: packed with dtype {weights.dtype}, expected that or auto, got {dtype}: "
            f"pack the original with --dtype {dtype}"
        )
    return weights


class ProgressSource:
    """A source of weights that reports progress."""

    def __init__(self, files: OriginalFiles, progress: Progress | None) -> None:
        self.names, self.shape, self.dtype = files.names, files.shape, files.dtype
        self.place, self.read_ranges, self.is_stored = files.place, files.read_ranges, files.is_stored
        self.total = sum(info.nbytes for info in files.tensors.values())
        self._files = files
        self._progress = progress
        self._done = 0

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        tensor = self._files.read(name, start, stop)
        self.report(self._done + tensor.nbytes)
        return tensor

    def read_parts(self, parts: Sequence[Part]) -> list[int]:
        hashes = self._files.read_parts(parts)
        self.report(self._done + sum(part.nbytes for part in parts))
        return hashes

    def report(self, done: int) -> None:
        self._done = done
        if self._progress is not None:
            self._progress(min(done, self.total), self.total)


def _load_weights(
    source: Source,
    files: ModelFiles,
    description: Description,
    options: LoadOptions,
    progress: Progress | None,
) -> Model[Any]:
    config, model_class = description.config, description.architecture.Model
    logs.load.info(
        "  Config: arch=%s, dim=%d, layers=%d, heads=%d, vocab=%d",
        description.name, config.hidden_size, config.n_layers, config.n_heads, config.vocab_size,
    )  # fmt: skip
    length = options.context_length
    if length is not None and length > config.context_length:
        raise PymlError(
            f"context length: expected at most {config.context_length}, which the model was made for, "
            f"got {quoted(length)}"
        )
    adapters = [read_adapter(file) for file in adapter_files(options.adapters)]
    dtype, kv_dtype, chunk = options.dtype, options.kv_dtype, min(options.prefill_chunk, config.context_length)
    try:
        weights = weight_source(files, model_class.specs(config), dtype)
        plan = model_class.memory_plan(config, weights, dtype, length or 1, chunk, kv_dtype)
    except PymlError as error:
        raise naming(source.path, error) from None
    plan = replace(plan, weights=0) if isinstance(files, PackedFile) else plan  # its pages are the file's
    plan.check()
    logs.load.info("  Loading tensors...")
    reported = None if isinstance(files, PackedFile) else ProgressSource(files, progress)
    try:
        model: Model[Any] = model_class(
            config, reported or weights, dtype, options.threads, chunk, options.screen, kv_dtype, adapters
        )
    except (ConfigError, WeightsError) as error:
        raise _of_adapter(adapters, error) or naming(source.path, error) from None
    if reported is not None:
        reported.report(reported.total)
    logs.load.info("  %d tensors loaded", len(files.tensors))
    if isinstance(files, SafetensorsFolder):
        _log_quantized(model)
    for adapter in adapters:
        logs.load.info("  Adapter %s: %d matrices from %s", adapter.name, len(adapter.modules), adapter.source)
    return model


def _of_adapter(adapters: Sequence[Adapter], error: PymlError) -> PymlError | None:
    """The error as it is if it names the file of an adapter; else None."""
    return error if any(str(error).startswith(f"{adapter.source}:") for adapter in adapters) else None


def naming(path: Path, error: PymlError) -> PymlError:
    """Return the error with the model's path at its beginning."""
    return error if str(error).startswith(f"{path}:") else type(error)(f"{path}: {error}")


def _language_model(
    source: Source,
    files: ModelFiles,
    model: Model[Any],
    tokenizer: Tokenizer,
    options: LoadOptions,
) -> LanguageModel:
    logs.load.info("  Tokenizer: %d tokens (%s)", tokenizer.vocab_size, tokenizer.kind)
    logs.load.info("  Model ready: %.1fM params", model.n_params / 1e6)
    return LanguageModel(
        model,
        tokenizer,
        tokenizer.eos_ids,
        options.context_length,
        min(options.prefill_chunk, model.context_length),
        source.name,
        PrefixCache(options.prefix_cache_bytes),
        generation_defaults(files),
    )


def _log_quantized(model: Any) -> None:
    matrices = {id(matrix): matrix for operation in model.program.operations for matrix in _matrices(operation.params)}
    kinds = [matrix.dtype for matrix in matrices.values() if matrix.quantized]
    for kind in dict.fromkeys(kinds):
        logs.load.info("  Quantized %d matrices -> %s", kinds.count(kind), kind.upper())


def _matrices(params: Mapping[str, Any]) -> Iterable[PackedMatrix]:
    for value in params.values():
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, PackedMatrix):
                yield item
