"""Random LoRA adapters of the tiny models, as PEFT folders, and as GGUF files under llama.cpp's conventions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.helpers.tiny_models import MODELS, TinyModel

F32Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TinyAdapter:
    """A random adapter.

    Attributes:
        name: of the golden.
        model: name of its tiny model.
        targets: last parts of the names of its modules.
        config: keys of ``adapter_config.json`` that differ.
        ranks: rank by the end of a module's name, if it differs from ``r``.
        seed: of the numbers.
    """

    name: str
    model: str
    targets: tuple[str, ...]
    config: Mapping[str, Any] = field(default_factory=dict)
    ranks: Mapping[str, int] = field(default_factory=dict)
    seed: int = 3

    @property
    def base(self) -> TinyModel:
        """The model that it changes."""
        found: TinyModel = MODELS[self.model]
        return found

    @property
    def full_config(self) -> dict[str, Any]:
        """``adapter_config.json``."""
        return {
            "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 5, "lora_alpha": 10, "bias": "none",
            "target_modules": list(self.targets), "inference_mode": True, "lora_dropout": 0.0, **self.config,
        }  # fmt: skip

    def arrays(self) -> dict[str, F32Array]:
        """A and B by their names in ``adapter_model.safetensors``."""
        random = np.random.RandomState(self.seed)
        found: dict[str, F32Array] = {}
        for name, weight in self.base.weights().items():
            module = name.removesuffix(".weight")
            if weight.ndim != 2 or module.rpartition(".")[2] not in self.targets:
                continue
            n, k = weight.shape[::-1] if self.config.get("fan_in_fan_out") else weight.shape
            rank = next((rank for end, rank in self.ranks.items() if f".{module}".endswith(f".{end}")), 5)
            for half, shape in (("A", (rank, k)), ("B", (n, rank))):
                array = random.standard_normal(shape) * 0.15
                found[f"base_model.model.{module}.lora_{half}.weight"] = array.astype(np.float32)
        return found


LLAMA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

ADAPTERS = {
    adapter.name: adapter
    for adapter in (
        TinyAdapter("lora_llama", "llama", LLAMA_TARGETS),
        TinyAdapter("lora_llama_qv", "llama", ("q_proj", "v_proj"), {"use_rslora": True}, seed=4),
        TinyAdapter(
            "lora_llama_patterns", "llama", LLAMA_TARGETS,
            {"rank_pattern": {"q_proj": 3, "layers.1.mlp.up_proj": 9}, "alpha_pattern": {"o_proj": 1}},
            {"q_proj": 3, "layers.1.mlp.up_proj": 9}, 5,
        ),
        TinyAdapter("lora_gpt2", "gpt2", ("c_attn", "c_fc"), {"fan_in_fan_out": True}),
        TinyAdapter("lora_gemma3", "gemma3", LLAMA_TARGETS),
        TinyAdapter("lora_falcon_new", "falcon_new", ("query_key_value", "dense")),
    )
}  # fmt: skip


def write_peft(adapter: TinyAdapter, folder: Path, **config: Any) -> Path:
    """Write a PEFT folder; ``config`` are keys that differ."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({**adapter.full_config, **config}))
    save_file(adapter.arrays(), folder / "adapter_model.safetensors")
    return folder


def write_gguf(adapter: TinyAdapter, path: Path, **metadata: Any) -> Path:
    """Write the adapter of a Llama as a GGUF file with the ``gguf`` package; ``metadata`` are keys that differ.

    Dots in names of keys are ``__``; None leaves a key out.
    """
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    values: dict[str, Any] = {"general__type": "adapter", "adapter__type": "lora", "adapter__lora__alpha": 10.0}
    for key, value in {**values, **metadata}.items():
        if isinstance(value, str):
            writer.add_string(key.replace("__", "."), value)
        elif value is not None:
            writer.add_float32(key.replace("__", "."), value)
    tensors = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    names = dict(zip(LLAMA_TARGETS, tensors, strict=True))
    text = adapter.base.text
    heads = {"attn_q": text["num_attention_heads"], "attn_k": text["num_key_value_heads"]}
    for name, array in adapter.arrays().items():
        parts = name.split(".")
        tensor = names[parts[-3]]
        half = parts[-2].lower()
        if half == "lora_b" and tensor in heads:  # as LlamaModel.permute of llama.cpp's converter orders the rows
            split = array.reshape(heads[tensor], 2, -1, array.shape[1])
            array = np.ascontiguousarray(split.swapaxes(1, 2)).reshape(array.shape)
        writer.add_tensor(f"blk.{parts[parts.index('layers') + 1]}.{tensor}.weight.{half}", array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
