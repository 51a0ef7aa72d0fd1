"""``pyml inspect``: the contents of a model's files, and the memory that the model needs. No weight is read."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from .options import DTYPES, SETTINGS, Command, check_model, choice, complete_files, configure_logs, integer, positive
from .output import Output

if TYPE_CHECKING:
    from ..loading import Description, ModelFiles

DEFAULT_CONTEXT = 4096
_ARRAY = re.compile(r"\[\d+ values\]")
_LONGEST = 100  # characters of a value that are shown


@click.command("inspect", cls=Command, context_settings=SETTINGS, short_help="Show the contents of a model's files.")
@click.argument("model", required=False, metavar="[MODEL]", shell_complete=complete_files)
@click.option("--safetensors", metavar="ID_OR_DIR", help="A Hugging Face folder or hub id; the same as MODEL.")
@choice(*DTYPES)("--dtype", default="auto", metavar="TYPE", help="Count packed bytes as for this --dtype.")
@integer("--context-len", metavar="N", help="Count the KV cache of N positions. [default: 4096]")
@click.option("--tensors", is_flag=True, help="List all tensors, too. --json always does.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def command(
    model: str | None, safetensors: str | None, dtype: str, context_len: int | None, tensors: bool, as_json: bool
) -> None:
    """Show MODEL's metadata, sizes, tokenizer, and the memory that it needs; with --tensors also each tensor."""
    source_name = check_model(model, safetensors, None)
    positive({"--context-len": context_len})
    configure_logs(-1)
    output = Output()

    from ..loading import find, open_weights

    source = find(source_name)
    with open_weights(source) as files:
        facts = inspect(files, dtype, context_len)
    facts = {"model": source.name, **facts}
    shown = json.dumps(facts, indent=1, ensure_ascii=False) if as_json else "\n".join(_lines(facts, tensors))
    output.write(f"{shown}\n")


def inspect(files: ModelFiles, dtype: str = "auto", context_len: int | None = None) -> dict[str, Any]:
    """Everything that is shown, ready for JSON; an ``"error"`` takes the place of a part that is not understood."""
    from pyml_core.errors import PymlError
    from pyml_nn.weights import SourceWeights, Weights

    from ..loading import describe, weight_source

    facts: dict[str, Any] = {
        "format": _format(files),
        "path": str(files.path),
        "files": [file.path.name for file in files.files],
        "tensor_count": len(files.tensors),
        "parameters": sum(_elements(info.shape) for info in files.tensors.values()),
        "stored_bytes": sum(info.nbytes for info in files.tensors.values()),
    }
    packed: dict[str, tuple[str, int]] = {}
    try:
        description = describe(files)
        model, config = description.architecture.Model, description.config
        source = weight_source(files, model.specs(config), dtype)
        if not isinstance(source, Weights):
            source = SourceWeights(source, model.specs(config), model.rules, dtype)
        packed = source.packed_sizes()
        facts |= _architecture(files, description, dtype, context_len)
    except PymlError as error:
        facts["architecture"] = {"error": str(error)}
    facts["tokenizer"] = _tokenizer(files)
    facts["metadata"] = {key: _shown(value) for key, value in _metadata(files).items()}
    facts["tensors"] = []
    for name, info in files.tensors.items():
        tensor: dict[str, Any] = {
            "name": name, "shape": list(info.shape), "type": info.stored or info.dtype, "stored_bytes": info.nbytes,
        }  # fmt: skip
        if name in packed:
            tensor["packed_type"], tensor["packed_bytes"] = packed[name]
        facts["tensors"].append(tensor)
    return facts


def _format(files: ModelFiles) -> str:
    from ..formats.gguf import GGUFFile
    from ..formats.packed import PackedFile

    if isinstance(files, PackedFile):
        original = "GGUF" if files.gguf else "safetensors"
        return f"packed model, from {original}, dtype {files.header['weights']['dtype']}"
    if isinstance(files, GGUFFile):
        return f"GGUF v{files.version}"
    return "safetensors" + (f", quantised with {files.quantisation}" if files.quantisation else "")


def _architecture(files: ModelFiles, description: Description, dtype: str, context_len: int | None) -> dict[str, Any]:
    from dataclasses import asdict

    config = description.config
    length = min(context_len or DEFAULT_CONTEXT, config.context_length)
    from ..loading import weight_source

    model_class = description.architecture.Model
    plan = model_class.memory_plan(config, weight_source(files, model_class.specs(config), dtype), dtype, length)
    return {
        "architecture": {"name": description.name, **_plain(asdict(config))},
        "memory": {"dtype": dtype, "context_len": length, **asdict(plan), "total": plan.total},
    }


def _tokenizer(files: ModelFiles) -> dict[str, Any]:
    from pyml_core.errors import PymlError

    from ..formats.gguf import GGUFFile
    from ..tokenizer import load_tokenizer

    try:
        tokenizer = load_tokenizer(files if isinstance(files, GGUFFile) else files.path)
    except PymlError as error:
        return {"error": str(error)}
    return {
        "kind": tokenizer.kind,
        "tokens": tokenizer.vocab_size,
        "bos_id": tokenizer.bos_id,
        "eos_ids": list(tokenizer.eos_ids),
        "special_tokens": len(tokenizer.special_ids),
        "chat_template": tokenizer.chat_template is not None,
    }


def _metadata(files: ModelFiles) -> Mapping[str, Any]:
    from ..formats.gguf import GGUFFile
    from ..formats.packed import PackedFile

    if isinstance(files, GGUFFile):
        return files.metadata
    if isinstance(files, PackedFile) and files.gguf:
        return {"source": files.header["source"], "sections": files.sections(), **files.config}
    return {**files.config, **{f"generation_config.{key}": value for key, value in files.generation_config.items()}}


def _elements(shape: tuple[int, ...]) -> int:
    count = 1
    for dim in shape:
        count *= dim
    return count


def _shown(value: Any) -> Any:
    """A metadata value for people and JSON: long texts and arrays by their size."""
    if isinstance(value, bytes):  # text that is not UTF-8
        return _shown(value.decode("utf-8", "backslashreplace"))
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no such number
    if isinstance(value, bool | int | float) or value is None:
        return value
    if isinstance(value, str):
        return value if len(value) <= _LONGEST else f"{value[:_LONGEST]}... ({len(value)} characters)"
    if isinstance(value, Mapping):
        return {str(key): _shown(item) for key, item in value.items()}
    items = list(value) if len(value) <= 16 else None
    if items is None:
        return f"[{len(value)} values]"
    return [_shown(item.item() if hasattr(item, "item") else item) for item in items]


def _plain(value: Any) -> Any:
    """Dataclass fields as JSON has them: tuples become lists, arrays too."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value


# ---- text


def _lines(facts: dict[str, Any], tensors: bool) -> Iterator[str]:
    from ..memory import gigabytes

    yield _printable(f"model       {facts['model']}")
    n_files = len(facts["files"])
    yield f"format      {facts['format']}" + (f" in {n_files} files" if n_files > 1 else "")
    arch, tokenizer = facts["architecture"], facts["tokenizer"]
    if "error" in arch:
        yield _printable(f"unusable    {arch['error']}")
    else:
        sizes = f"{arch['n_layers']} layers, {arch['hidden_size']} wide, vocabulary {arch['vocab_size']}"
        yield f"arch        {arch['name']}: {sizes}, context {arch['context_length']}"
    yield f"parameters  {facts['parameters'] / 1e6:.1f}M in {facts['tensor_count']} tensors"
    yield f"stored      {gigabytes(facts['stored_bytes'])}"
    if memory := facts.get("memory"):
        parts = ", ".join(f"{key} {gigabytes(memory[key])}" for key in ("weights", "kv_cache", "activations"))
        yield f"memory      {gigabytes(memory['total'])} at a context of {memory['context_len']} ({parts})"
    if "error" in tokenizer:
        yield _printable(f"tokenizer   unusable: {tokenizer['error']}")
    else:
        ends = " ".join(map(str, tokenizer["eos_ids"])) or "none"
        template = "a" if tokenizer["chat_template"] else "no"
        special = f"BOS {tokenizer['bos_id']}, EOS {ends}, {template} chat template"
        yield f"tokenizer   {tokenizer['kind']}: {tokenizer['tokens']} tokens, {special}"
    yield "\nmetadata"
    for key, value in facts["metadata"].items():
        array = isinstance(value, str) and _ARRAY.fullmatch(value)
        yield _printable(f"  {key} = {value if array else json.dumps(value, ensure_ascii=False)}")
    if not tensors:
        return
    yield "\ntensors"
    width = max((len(tensor["name"]) for tensor in facts["tensors"]), default=0)
    for tensor in facts["tensors"]:
        shape = "x".join(map(str, tensor["shape"]))
        packed = f" -> {tensor['packed_type']} {tensor['packed_bytes']}" if "packed_type" in tensor else ""
        yield _printable(
            f"  {tensor['name']:<{width}}  {shape:<16} {tensor['type']:<6} {tensor['stored_bytes']}{packed} bytes"
        )


def _printable(text: str) -> str:
    """Without control characters, which a file could use to talk to the terminal."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)
