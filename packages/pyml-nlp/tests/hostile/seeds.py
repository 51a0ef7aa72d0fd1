"""Small valid files of every format, from which the exhaustive and the random tests make bad ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import writers

from pyml_nlp.formats.config import read_config
from pyml_nlp.formats.folders import read_weight_map
from pyml_nlp.formats.gguf import GGUFFile
from pyml_nlp.formats.safetensors import SafetensorsFile

_TENSORS = {
    "token_embd.weight": ("f32", (2, 3), writers.floats(2, 3)),
    "blk.0.attn_q.weight": ("q8_0", (2, 32), bytes(68)),
    "blk.0.none": ("f16", (0, 2), b""),
    "output_norm.weight": ("f32", (4,), writers.floats(4)),
}
_METADATA: dict[str, tuple[str, Any]] = {
    "general.architecture": ("str", "llama"),
    "llama.block_count": ("u32", 1),
    "llama.rope.freq_base": ("f32", 10000.0),
    "tokenizer.ggml.tokens": ("[str", ["<s>", "▁a", "b"]),
    "tokenizer.ggml.scores": ("[f32", [0.0, -1.0, -2.0]),
    "tokenizer.ggml.add_bos_token": ("bool", 1),
}

GGUF_V3 = writers.gguf(_METADATA, _TENSORS)
GGUF_V2 = writers.gguf(
    {
        "general.alignment": ("u32", 64),
        "a.u8": ("u8", 1),
        "a.i64": ("i64", -1),
        "a.f64": ("f64", 0.5),
        "a.bools": ("[bool", [1, 0]),
        "a.numbers": ("[u16", [1, 2, 3]),
    },
    {"w": ("q4_0", (1, 64), bytes(36)), "b": ("f32", (), writers.floats())},
    version=2,
)
SAFETENSORS = writers.safetensors(
    {
        "h.0.attn.weight": ("F32", (2, 3), writers.floats(2, 3)),
        "none": ("F16", (0, 2), b""),
        "ids": ("I64", (1,), bytes(8)),
        "b": ("BF16", (3,), bytes(6)),
    },
    {"format": "pt"},
)
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "rms_norm_eps": 1e-5,
    "eos_token_id": [1, 2],
    "rope_scaling": {"rope_type": "linear", "factor": 2.0},
    "tie_word_embeddings": True,
    "name": "▁",
    "none": None,
}
INDEX: dict[str, Any] = {
    "metadata": {"total_size": 24},
    "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"},
}
JSON_SEEDS = {"config": json.dumps(CONFIG).encode(), "index": json.dumps(INDEX).encode()}


def load_gguf(path: Path) -> None:
    """Open a GGUF file and read all its tensors."""
    with GGUFFile(path) as file:
        for name in file.names():
            tensor = file.read(name)
            assert tensor.shape == file.shape(name)
            assert tensor.nbytes == file.tensors[name].nbytes <= file.files[0].size


def load_safetensors(path: Path) -> dict[str, tuple[int, ...]]:
    """Open a safetensors file, read all its tensors that are weights, and return the shapes of all."""
    with SafetensorsFile(path) as file:
        for name, info in file.tensors.items():
            if info.dtype in ("f32", "f16", "bf16") and len(info.shape) <= 4:
                tensor = file.read(name)
                assert tensor.shape == info.shape
                assert tensor.nbytes == info.nbytes <= file.size
        return {name: info.shape for name, info in file.tensors.items()}


def load_config(path: Path) -> None:
    """Read ``config.json``."""
    read_config(path.parent)


def load_index(path: Path) -> None:
    """Read the shard index; every name in it must be that of a file in the folder itself."""
    for shard in read_weight_map(path).values():
        assert (path.parent / shard).resolve().parent == path.parent.resolve()


JSON_LOADERS = {"config": ("config.json", load_config), "index": ("model.safetensors.index.json", load_index)}
