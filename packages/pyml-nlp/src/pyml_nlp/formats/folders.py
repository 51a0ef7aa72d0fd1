"""Finding the weights of a model folder, and diagnosing folders without a model in Hugging Face layout.

The weights are ``model.safetensors``, otherwise the shards listed in ``model.safetensors.index.json``, as in
transformers (``_get_resolved_checkpoint_files`` in ``modeling_utils.py``). Other files are not read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from pyml_core.errors import PymlError, quoted

from ..errors import ModelFileError, ModelNotFoundError
from .config import read_json, read_optional
from .gguf import part_names

CONFIG = "config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")

MAX_INDEXED = 1 << 18  # tensors of all shards
MAX_INDEX = MAX_INDEXED << 7  # bytes
_MOST_NAMES = 10_000  # maximum number of files that a diagnosis looks at

_OF_TRAINING = ("training_args.", "optimizer.", "scheduler.", "scaler.", "rng_state", "random_states")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "tekken.json")
_OTHER_ENGINES = {
    ".onnx": "ONNX", ".npz": "an older version of MLX", ".h5": "TensorFlow", ".msgpack": "JAX", ".ot": "Rust",
    ".tflite": "TensorFlow Lite", ".mlmodel": "Core ML", ".mlpackage": "Core ML", ".pte": "ExecuTorch",
    ".nemo": "NeMo", ".engine": "TensorRT", ".litertlm": "LiteRT", ".task": "MediaPipe",
}  # fmt: skip


@dataclass(frozen=True)
class WeightFiles:
    """The files of a model's weights.

    Attributes:
        names: names of the files, ascending.
        weight_map: the file of each tensor according to the index; None if there is no index.
        left_out: other weight files, or an index, that are not used.
    """

    names: list[str]
    weight_map: dict[str, str] | None
    left_out: list[str]


def weight_files(folder: Path) -> WeightFiles | None:
    """Return the weight files of a folder, or None if it has none in a supported format.

    Raises:
        ModelFileError: the folder cannot be read, the index is malformed, or a name in it leads out of the folder.
    """
    names = file_names(folder)
    found = [name for name in names if name.startswith("model") and name.endswith(".safetensors")]
    if SINGLE in names:
        stale = INDEX in names and not _names_only(folder / INDEX, SINGLE)
        return WeightFiles([SINGLE], None, [*([INDEX] if stale else []), *(name for name in found if name != SINGLE)])
    if INDEX in names:
        weight_map = read_weight_map(folder / INDEX)
        shards = sorted(set(weight_map.values()))
        return WeightFiles(shards, weight_map, sorted(set(found) - set(shards)))
    return None


def file_names(folder: Path) -> list[str]:
    """Return the names of all entries of a folder, ascending. Raises ModelFileError if it cannot be read."""
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        raise ModelFileError(f"{folder}: cannot be read: {error.strerror}") from None


def _names_only(index: Path, name: str) -> bool:
    """Return whether an unused index is redundant: it names only the file ``name``."""
    try:
        return set(read_weight_map(index).values()) == {name}
    except PymlError:
        return False


def read_weight_map(index: Path) -> dict[str, str]:
    """Read the shard of each tensor from ``model.safetensors.index.json``. All names are those of files next to it.

    Raises:
        ModelNotFoundError: the file does not exist.
        ModelFileError: it is malformed, or a name leads out of the folder.
    """
    found = read_json(index, MAX_INDEX, MAX_INDEXED)
    weight_map = found.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelFileError(
            f"{index}: expected an object of tensors and files in 'weight_map', got {quoted(repr(weight_map))}"
        )
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str):
            raise ModelFileError(f"{index}: expected a file name for {quoted(tensor)}, got {quoted(repr(shard))}")
        if not is_shard_name(shard):
            raise ModelFileError(
                f"{index}: expected the name of a .safetensors file in this folder for {quoted(tensor)}, "
                f"got {quoted(shard)}"
            )
    return weight_map


def is_shard_name(name: str) -> bool:
    """Return whether ``name`` is the plain name of a safetensors file: no path, no drive, visible and printable."""
    return (
        name.endswith(".safetensors")
        and name.isprintable()
        and not name.startswith(".")
        and not set(name) & set('/\\:*?"<>|')
    )


def gguf_of(folder: Path) -> Path | None:
    """Return the GGUF file of a folder that has one such model and none in Hugging Face layout; otherwise None.

    Raises:
        ModelNotFoundError: the folder has several GGUF models.
    """
    names = file_names(folder)
    if CONFIG in names and (SINGLE in names or INDEX in names):
        return None
    models = gguf_models(names)
    if len(models) > 1:
        raise ModelNotFoundError(f"{folder}: holds several GGUF files, give one of them: {listed(models)}")
    return folder / models[0] if models else None


def gguf_models(names: Iterable[str]) -> list[str]:
    """Return the names of GGUF language models, ascending; of a split model only the first part."""
    models = (name for name in names if name.lower().endswith(".gguf"))
    return sorted({part_names(name)[0] for name in models if not _base(name).lower().startswith("mmproj")})


def not_a_model(folder: Path) -> PymlError:
    """Return the error for a folder without readable configuration or weights: its content, and a way forward."""
    top = file_names(folder)
    names = list(islice(_with_subfolders(folder, top), _MOST_NAMES))
    if not top:
        return ModelNotFoundError(f"{folder}: the folder is empty")
    if SINGLE in top or INDEX in top:
        return ModelNotFoundError(f"{folder / CONFIG}: there is no such file, which describes the weights' model")
    if (form := other_form(names)) is not None:
        return ModelFileError(f"{folder}: holds {form}{_base_model(folder) if ADAPTER in top else ''}")
    if weights := [name for name in top if name.endswith(".safetensors")]:
        return ModelNotFoundError(f"{folder}: expected {SINGLE} or {INDEX}, got {listed(weights)}")
    if CONFIG in top:
        return ModelNotFoundError(f"{folder}: there are no weights here, expected {SINGLE} or {INDEX}")
    if inner := [name.removesuffix("/" + CONFIG) for name in names if name.endswith("/" + CONFIG)]:
        return ModelNotFoundError(f"{folder}: holds no model itself; give a folder in it: {listed(inner)}")
    if any(name in _TOKENIZERS for name in top):
        return ModelNotFoundError(f"{folder}: holds a tokenizer alone, with no {CONFIG} and no weights")
    return ModelNotFoundError(f"{folder}: expected {CONFIG} and {SINGLE}, or a GGUF file; got {listed(top)}")


def other_form(names: Collection[str]) -> str | None:
    """Describe an unsupported format that files with these names are in, with advice; None if it is not recognised."""
    bases = {_base(name) for name in names}
    if ADAPTER in bases or any(name.startswith("adapter_model.") for name in bases):
        advice = "give its base model, and the adapter as --lora (adapters=[...])"
        return f"an adapter (LoRA or the like), not a model: {advice}"
    if "model_index.json" in bases:
        return "a pipeline of diffusers, not a language model"
    if openvino := [name for name in names if name.endswith(".xml") and name[:-4] + ".bin" in names]:
        return f"weights for OpenVINO ({listed(openvino)}), which are not supported: use the model's {SINGLE}"
    if pickled := [name for name in names if name.endswith(PICKLED) and not _base(name).startswith(_OF_TRAINING)]:
        return (
            f"only pickled weights ({listed(pickled)}), which could run any code and are never read: convert them to "
            f"{SINGLE}, or use a version of the model that has it"
        )
    for suffix, engine in _OTHER_ENGINES.items():
        if others := [name for name in names if name.endswith(suffix)]:
            return f"weights for {engine} ({listed(others)}), which are not supported: use the model's {SINGLE}"
    return None


def listed(names: Collection[str]) -> str:
    """Format up to five names for a message."""
    names = list(names)
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(quoted(name) for name in names[:5]) + more


def _with_subfolders(folder: Path, top: list[str]) -> Iterator[str]:
    """Iterate over the names in a folder, and the relative names in its subfolders."""
    yield from top
    for name in top:
        inner = folder / name
        if inner.is_dir() and not name.startswith("."):
            with contextlib.suppress(ModelFileError):
                yield from (f"{name}/{other}" for other in file_names(inner))


def _base_model(folder: Path) -> str:
    """Return an addition to a message with the base model in an adapter's configuration; empty if it has none."""
    try:
        name = read_optional(folder, ADAPTER).get("base_model_name_or_path")
    except PymlError:
        return ""
    return f" (its base model is {quoted(name)})" if isinstance(name, str) and name else ""


def _base(name: str) -> str:
    return name.rpartition("/")[2]
