"""From a path, a hub id or nothing to a :class:`LanguageModel`.

(The module is not called ``load``: importing a module of that name would replace the function :func:`pyml_nlp.load`.)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from types import ModuleType
from typing import Any, Generic, TypeVar, cast

from pyml_core.errors import PymlError, quoted
from pyml_core.from_file import Part
from pyml_core.tensor import PackedMatrix, Tensor
from pyml_nn import ConfigError, WeightsError
from pyml_nn.models import architecture_of

from . import logs
from .errors import ArgumentError
from .formats.gguf import GGUFFile
from .formats.safetensors import SafetensorsFolder
from .generation.prefix_cache import DEFAULT_BYTES, PrefixCache
from .language_model import LanguageModel
from .pickling import Origin
from .source import Source, resolve
from .tokenizer import Tokenizer, load_tokenizer
from .tokenizer.load import tokenizer_files
from .values import flag, text, whole

T = TypeVar("T")

Progress = Callable[[int, int], None]
"""Called with the bytes read so far and all bytes to read."""

ModelPath = str | os.PathLike[str]


def load(
    model: ModelPath | None = None,
    dtype: str = "auto",
    threads: int | None = None,
    context_len: int | None = None,
    prefill_chunk: int = 512,
    *,
    cache_bytes: int = DEFAULT_BYTES,
    screen: bool = True,
    kv_dtype: str = "auto",
    progress: Progress | None = None,
) -> LanguageModel:
    """Load a language model.

    Args:
        model: a ``.gguf`` file (of a split model any part), a folder in Hugging Face layout, or a hub id (in its cache
            or downloaded). None: what the environment variable ``PYML_MODEL`` names, else the embedded default, Gemma 3
            270M.
        dtype: weights in memory. ``auto``: as stored in GGUF, q8_0 from safetensors; ``f32`` (and f32 arithmetic),
            ``bf16``, ``q8_0``, ``q4_0``: converted.
        threads: worker threads, as given; None: what suits the machine.
        context_len: most positions of a sequence; None: as many as the model was made for.
        prefill_chunk: most tokens of a prompt that run at once, for which buffers are kept.
        cache_bytes: most bytes of keys and values kept of earlier texts, for prompts that begin alike; 0: none.
        screen: find the most probable tokens from half of the bytes of a large q8_0 head, where they alone decide; see
            :mod:`pyml_core.screen`. False: always compute all logits.
        kv_dtype: what keys and values are kept as, ``f32``, ``f16`` or ``int8``. ``auto``: int8 with quantised
            matrices, if a head is a multiple of 32 wide; f32 with f32 weights; else f16.
        progress: called while weights are read, with the bytes read and all bytes.

    Raises:
        ModelNotFoundError: there is no such model.
        ModelFileError: a file is malformed or not supported.
        ConfigError, WeightsError: a configuration or weights that are not understood.
        OutOfMemoryError: the model, or a sequence of ``context_len``, would not fit in memory; nothing has been read.
        PymlError: an argument out of its range.
    """
    logs.configure_from_environment()
    threads = None if threads is None else whole("threads", threads, 1)
    context_len = None if context_len is None else whole("context_len", context_len, 1)
    prefill_chunk = whole("prefill_chunk", prefill_chunk, 1)
    screen, dtype, kv_dtype = flag("screen", screen), text("dtype", dtype), text("kv_dtype", kv_dtype)
    if progress is not None and not callable(progress):
        raise ArgumentError(f"must be a function of two numbers, got {quoted(progress)}", "progress")
    prefix_cache = PrefixCache(whole("cache_bytes", cache_bytes, 0))
    source = find(model)
    with open_weights(source) as files:
        description = describe(files)
        if isinstance(files, SafetensorsFolder):
            tokenizer_files(files.path)  # that there are any, before weights are read
        tokenizer = _Beside(lambda: load_tokenizer(files if isinstance(files, GGUFFile) else files.path))
        try:
            lm = _build(
                source,
                files,
                description,
                tokenizer,
                dtype,
                threads,
                context_len,
                prefill_chunk,
                screen,
                kv_dtype,
                progress,
            )
        except Exception:
            tokenizer.result()  # what is wrong with it comes first
            raise
    lm.prefix_cache = prefix_cache
    options = {
        "dtype": dtype,
        "threads": threads,
        "context_len": context_len,
        "prefill_chunk": prefill_chunk,
        "cache_bytes": cache_bytes,
        "screen": screen,
        "kv_dtype": kv_dtype,
    }
    lm.origin = Origin(source.path.absolute(), source.name, options)
    return lm


def find(model: ModelPath | None) -> Source:
    """The model's files on this machine, downloaded if they have to be; see :func:`pyml_nlp.source.resolve`.

    Raises:
        ArgumentError: neither a path nor a text.
        ModelNotFoundError: there is no such model.
    """
    if model is not None and not isinstance(model, str | os.PathLike):
        raise ArgumentError(f"must be a path or a hub id, got {quoted(model)}", "model")
    try:
        return resolve(model, logs.source.info)
    except PymlError as error:
        name = "" if model is None else os.fspath(model)
        if name.endswith(".gguf"):
            raise type(error)(f"Failed to parse GGUF: {error}") from None
        if name.count("/") == 1 and not Path(name).exists() and not name.startswith(("/", ".", "~")):
            raise type(error)(f"Failed to download model: {error}") from None
        raise


def open_weights(source: Source) -> GGUFFile | SafetensorsFolder:
    """The opened file or folder; its header has been read and checked, its weights have not been read.

    Raises:
        ModelNotFoundError, ModelFileError: it is missing or malformed.
    """
    if source.kind == "folder":
        logs.load.info("Loading SafeTensors: %s", source.path)
        return SafetensorsFolder(source.path)
    logs.load.info("Loading GGUF: %s", source.path)
    try:
        file = GGUFFile(source.path)
    except PymlError as error:
        raise type(error)(f"Failed to parse GGUF: {error}") from None
    logs.load.info("  GGUF v%d, %d tensors", file.version, len(file.tensors))
    return file


@dataclass(frozen=True)
class Description:
    """What a model's files say about it.

    Attributes:
        architecture: its module of :mod:`pyml_nn.models`.
        name: what the files call the architecture.
        config: the architecture's configuration.
    """

    architecture: ModuleType
    name: str
    config: Any


def describe(files: GGUFFile | SafetensorsFolder) -> Description:
    """Read the configuration.

    Raises:
        ConfigError: an unknown architecture, or a configuration that is malformed or not supported.
    """
    if isinstance(files, GGUFFile):
        architecture = architecture_of(files.metadata, str(files.path))
        try:
            config = architecture.Config.from_gguf(files.metadata)
        except PymlError as error:
            raise type(error)(f"{files.path}: {error}") from None
        return Description(architecture, str(files.metadata["general.architecture"]), config)
    where = files.path / "config.json"
    architecture = architecture_of(files.config, str(where))
    config = architecture.Config.from_hf(files.config, str(where))
    return Description(architecture, str(files.config["model_type"]), config)


class _Beside(Generic[T]):
    """A call in a thread of its own: what libraries do without the GIL goes on beside the rest."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._value: T | None = None
        self._error: BaseException | None = None
        self._done = False
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value = self._call()
        except BaseException as error:  # raised where the result is asked for
            self._error = error
        self._done = True

    def result(self) -> T:
        """What the call has returned, once it has."""
        self._thread.join()
        if not self._done:  # in the child of a fork, where the thread is not
            self._run()
        if self._error is not None:
            raise self._error
        return cast("T", self._value)


class _Reported:
    """A source of weights that tells how much of it has been read."""

    def __init__(self, files: GGUFFile | SafetensorsFolder, progress: Progress | None) -> None:
        self.names, self.shape, self.dtype = files.names, files.shape, files.dtype
        self.place, self.read_ranges = files.place, files.read_ranges
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


def _build(
    source: Source,
    files: GGUFFile | SafetensorsFolder,
    description: Description,
    tokenizer: _Beside[Tokenizer],
    dtype: str,
    threads: int | None,
    context_len: int | None,
    prefill_chunk: int,
    screen: bool,
    kv_dtype: str,
    progress: Progress | None,
) -> LanguageModel:
    config, model_class = description.config, description.architecture.Model
    logs.load.info(
        "  Config: arch=%s, dim=%d, layers=%d, heads=%d, vocab=%d",
        description.name, config.hidden_size, config.n_layers, config.n_heads, config.vocab_size,
    )  # fmt: skip
    if context_len is not None and context_len > config.context_length:
        raise PymlError(
            f"context length: expected at most {config.context_length}, which the model was made for, "
            f"got {quoted(context_len)}"
        )
    chunk = min(prefill_chunk, config.context_length)
    try:
        plan = model_class.memory_plan(config, files, dtype, context_len or 1, chunk, kv_dtype)
    except PymlError as error:
        raise type(error)(f"{source.path}: {error}") from None
    plan.check()
    logs.load.info("  Loading tensors...")
    weights = _Reported(files, progress)
    try:
        model = model_class(config, weights, dtype, threads, chunk, screen, kv_dtype)
    except (ConfigError, WeightsError) as error:
        raise type(error)(f"{source.path}: {error}") from None
    weights.report(weights.total)
    logs.load.info("  %d tensors loaded", len(files.tensors))
    if isinstance(files, SafetensorsFolder):
        _log_quantized(model)
    made = tokenizer.result()
    logs.load.info("  Tokenizer: %d tokens (%s)", made.vocab_size, made.kind)
    logs.load.info("  Model ready: %.1fM params", model.n_params / 1e6)
    return LanguageModel(model, made, made.eos_ids, context_len, chunk, source.name)


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
