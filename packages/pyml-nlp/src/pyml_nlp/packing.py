"""Packing of a model: its weights in the layout of the kernels, with everything else that it needs, in one file.

:mod:`pyml_nlp.formats.packed` describes the file.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pyml_core.errors import PymlError
from pyml_nn.files import check_place, checked_path
from pyml_nn.weights.packed import KeptWeights

from .default_model import packed_folder
from .errors import ModelFileError
from .formats.gguf import GGUFFile
from .formats.packed import PackedFile
from .formats.packed_name import SUFFIX, is_packed
from .formats.packed_writer import write_packed
from .loading import ModelPath, OriginalFiles, ProgressSource, describe, find, generation_defaults, open_weights
from .options.load import LoadOptions
from .source import Source
from .tokenizer import Tokenizer, load_tokenizer
from .tokenizer.packed import pack_tokenizer, unpack_tokenizer
from .values import progress_function

Progress = Callable[[int, int], None]
"""Called with the bytes that were read and written so far, and all of them."""

MAX_TEXT = 1 << 20
"""Maximum size of a licence or a description that is copied, in bytes."""

_TEXTS = ("LICENSE", "LICENCE", "NOTICE", "USE_POLICY", "README")


def pack(
    model: ModelPath | None = None,
    path: str | os.PathLike[str] | None = None,
    *,
    dtype: str = "auto",
    threads: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Pack a model into one file, which loads in milliseconds and is shared by all processes of a machine.

    Logits are bit-identical to those of the original. The file appears when it is complete; an existing packed model is
    replaced, and processes that use it keep the old one.

    Args:
        model: see :func:`pyml_nlp.load`.
        path: the file to write; None: a file in pyml's cache, which is loaded by its name.
        dtype: see :class:`LoadOptions`; the file can be loaded with this type only.
        threads: number of worker threads; None: what suits the machine.
        progress: called with the bytes that were read and written so far, and all of them.

    Returns:
        The path of the file.

    Raises:
        ModelFileError: the model is packed already, a file is malformed, or the file cannot be written.
        ArgumentError: a value of the wrong type.
        PymlError: see :func:`pyml_nlp.load`.
    """
    options, progress = LoadOptions(dtype=dtype, threads=threads), progress_function(progress)
    source = find(model)
    target = Path(checked_path(path)) if path is not None else packed_folder() / default_name(source, options.dtype)
    with open_weights(source) as files:
        if isinstance(files, PackedFile):
            raise ModelFileError(f"{source.path}: it is packed already; give the original")
        _check_target(target, in_cache=path is None)
        _pack(source, files, target, options, progress)
    return target


def default_name(source: Source, dtype: str = "auto") -> str:
    """Return the file name of a packed model: that of the original, with the type if it is not ``auto``."""
    stem = source.path.stem if source.kind == "gguf" else Path(source.name).name or source.path.name
    return f"{stem}{'' if dtype == 'auto' else f'-{dtype}'}{SUFFIX}"


def check(path: str | os.PathLike[str], progress: Progress | None = None) -> None:
    """Read a whole packed model, and compare everything with its checksums.

    Raises:
        ModelFileError: names the first part that is damaged.
    """
    with PackedFile(path) as file:
        file.check(progress)


def _pack(source: Source, files: OriginalFiles, target: Path, options: LoadOptions, progress: Progress | None) -> None:
    description = describe(files)
    model_class, config = description.architecture.Model, description.config
    tokenizer = load_tokenizer(files if isinstance(files, GGUFFile) else files.path)
    specs = model_class.specs(config)
    stored = sum(info.nbytes for info in files.tensors.values())
    plan = model_class.memory_plan(config, files, options.dtype, 1, 1)
    _check_space(target, plan.weights)
    total, done = stored + plan.weights, 0

    def read(count: int, _: int) -> None:
        if progress is not None:
            progress(count, total)

    def wrote(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(min(stored + done, total), total)

    try:
        weights = KeptWeights(ProgressSource(files, read), specs, model_class.rules, options.dtype, screen=True)
        model = model_class(config, weights, threads=options.threads, max_tokens=1)
    except PymlError as error:
        raise type(error)(f"{source.path}: {error}") from None
    screening = model.program.screening
    sections = _tokenizer_sections(tokenizer, str(source.path)) | _texts(files)
    facts = _facts(source, files, tokenizer, weights)
    stats = screening[0].params["row_stats"] if screening else None
    try:
        write_packed(target, facts, sections, weights.contents, stats, wrote)
    except OSError as error:
        raise ModelFileError(f"{target}: cannot be written: {error.strerror or error}") from None
    if progress is not None:
        progress(total, total)
    with PackedFile(target) as packed:
        if describe(packed).config != config or generation_defaults(packed) != generation_defaults(files):
            target.unlink(missing_ok=True)
            raise ModelFileError(f"{source.path}: its configuration cannot be packed")


def _check_target(target: Path, in_cache: bool) -> None:
    """Check that the file can be written, before any work."""
    try:
        if in_cache:
            target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and not is_packed(target):
            raise ModelFileError(f"{target}: it exists and is not a packed model; give another name")
        if not target.exists():
            check_place(target)
    except OSError as error:
        raise ModelFileError(f"{target}: cannot be written: {error.strerror or error}") from None


def _check_space(target: Path, needed: int) -> None:
    free = shutil.disk_usage(target.absolute().parent).free
    if free < needed:
        raise ModelFileError(f"{target}: cannot be written: {needed} bytes are needed, {free} are free on the disk")


def _facts(source: Source, files: OriginalFiles, tokenizer: Tokenizer, weights: KeptWeights) -> dict[str, Any]:
    """Return the header without its tables."""
    contents = weights.contents
    facts: dict[str, Any] = {
        "source": {"name": source.name[:1000], "files": [file.path.name for file in files.files]},
        "weights": {
            "dtype": contents.dtype,
            "n_params": contents.n_params,
            "fingerprint": contents.fingerprint,
            "config_digest": contents.config_digest,
            "level": contents.level,
        },
    }
    if isinstance(files, GGUFFile):
        tokens = files.metadata.get("tokenizer.ggml.tokens", ())
        return facts | {
            "format": "gguf", "n_tokens": len(tokens), "config": _plain_metadata(files.metadata),
            "generation_config": {},
        }  # fmt: skip
    return facts | {
        "format": "safetensors", "n_tokens": tokenizer.vocab_size, "config": files.config,
        "generation_config": files.generation_config,
    }  # fmt: skip


def _plain_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return GGUF metadata for JSON: without the tokenizer, positions in files, and values that JSON does not have."""
    left_out = ("tokenizer.", "split.", "general.alignment")
    found = {}
    for key, value in metadata.items():
        plain = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
        finite = all(
            math.isfinite(item) for item in (plain if isinstance(plain, list) else [plain]) if type(item) is float
        )
        if not key.startswith(left_out) and not isinstance(plain, bytes) and finite:
            found[key] = plain
    return found


def _tokenizer_sections(tokenizer: Tokenizer, label: str) -> dict[str, bytes]:
    """Return the sections of the tokenizer, from which an equal one has been made."""
    packed = pack_tokenizer(tokenizer)
    try:
        again = unpack_tokenizer(packed, label)
    except ModelFileError as error:
        raise ModelFileError(f"{error}: this tokenizer cannot be packed") from None
    if again.fingerprint != tokenizer.fingerprint:
        raise ModelFileError(f"{label}: this tokenizer cannot be packed: it becomes another one")
    text = json.dumps(packed.description, ensure_ascii=False, separators=(",", ":"))
    sections = {"tokenizer": text.encode(), "tokenizer tokens": packed.tokens, "tokenizer model": packed.model}
    return {name: bytes(data) for name, data in sections.items()}


def _texts(files: OriginalFiles) -> dict[str, bytes]:
    """Return the licences and descriptions next to the weights, by file name; GGUF metadata names them itself."""
    if isinstance(files, GGUFFile):
        return {}
    found = {}
    for path in sorted(files.path.iterdir()):
        if path.name.upper().startswith(_TEXTS) and path.is_file():
            if path.stat().st_size > MAX_TEXT:
                raise ModelFileError(f"{path}: expected a text of at most {MAX_TEXT} bytes, got {path.stat().st_size}")
            found[f"text {path.name}"] = path.read_bytes()
    return found
