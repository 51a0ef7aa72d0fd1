"""Hugging Face folders of Gemma 3 270M and SmolLM2 for the tests, rebuilt from their GGUF files with pyml's own reader.

``python tests/make_hf_layout.py`` makes both in the cache of :mod:`fetch`. The weights are the GGUF's own,
dequantised to f32, so that a folder and its file must give equal logits; they are written as shards with an index.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pyml_core.dtypes import dequantize
from pyml_nlp.formats.gguf import GGUFFile
from tests.helpers import fetch, tokenizer_files
from tests.helpers.hf_files import Array, Entry, new_folder, write_shards
from tests.helpers.tokenizer_files import ByteLevel

_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_GEMMA_NAMES = {
    **_NAMES,
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
}


def _entries(file: GGUFFile, heads: int, kv_heads: int) -> Iterator[Entry]:
    gemma = file.metadata["general.architecture"] == "gemma3"
    names = _GEMMA_NAMES if gemma else _NAMES
    for gguf_name in file.names():
        stem, kind = gguf_name.rsplit(".", 1)
        prefix = ""
        if stem.startswith("blk."):
            _, number, stem = stem.split(".", 2)
            prefix = f"model.layers.{number}."
        name = f"{prefix}{names[stem]}.{kind}"

        def make(gguf_name: str = gguf_name, name: str = name) -> Array:
            tensor = file.read(gguf_name)
            array = dequantize(tensor.data, tensor.dtype, tensor.shape)
            if gemma and name.endswith("norm.weight"):
                return array - np.float32(1)
            if not gemma and name.endswith(("q_proj.weight", "k_proj.weight")):
                groups = heads if "q_proj" in name else kv_heads
                pairs = array.reshape(groups, array.shape[0] // groups // 2, 2, -1)  # interleaved RoPE to halves
                return pairs.swapaxes(1, 2).reshape(array.shape)
            return array

        yield Entry(name, "F32", tuple(file.shape(gguf_name)), make)


def gemma_folder() -> Path:
    """Gemma 3 270M as a Hugging Face folder: f32 shards, tokenizer.model."""
    with new_folder("gemma-3-270m-hf-v1") as (final, folder):
        if folder is None:
            return final
        file = GGUFFile(fetch.fetch(fetch.GEMMA))
        meta = file.metadata
        config = {
            "architectures": ["Gemma3ForCausalLM"],
            "model_type": "gemma3_text",
            "vocab_size": 262144,
            "hidden_size": 640,
            "intermediate_size": 2048,
            "num_hidden_layers": 18,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 256,
            "hidden_activation": "gelu_pytorch_tanh",
            "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-06,
            "rope_theta": 1000000.0,
            "rope_local_base_freq": 10000.0,
            "rope_scaling": None,
            "sliding_window": 512,
            "_sliding_window_pattern": 6,
            "query_pre_attn_scalar": 256,
            "attention_bias": False,
            "attention_dropout": 0.0,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "use_bidirectional_attention": False,
            "bos_token_id": 2,
            "eos_token_id": 1,
            "pad_token_id": 0,
            "initializer_range": 0.02,
            "use_cache": True,
            "torch_dtype": "float32",
        }
        (folder / "config.json").write_text(json.dumps(config, indent=1))
        tokenizer_files.write_sentencepiece(folder, tokenizer_files.gemma_pieces(meta))
        write_shards(folder, _entries(file, heads=4, kv_heads=1))
    return final


def smollm2_folder() -> Path:
    """SmolLM2 135M Instruct as a Hugging Face folder: f32 shards, tokenizer.json with its chat template."""
    with new_folder("SmolLM2-135M-Instruct-hf-v1") as (final, folder):
        if folder is None:
            return final
        file = GGUFFile(fetch.fetch(fetch.SMOLLM2))
        meta = file.metadata
        config = {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": 49152,
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "hidden_act": "silu",
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-05,
            "rope_theta": 100000.0,
            "rope_scaling": None,
            "rope_interleaved": False,
            "attention_bias": False,
            "attention_dropout": 0.0,
            "mlp_bias": False,
            "pretraining_tp": 1,
            "tie_word_embeddings": True,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 2,
            "initializer_range": 0.041666666666666664,
            "is_llama_config": True,
            "use_cache": True,
            "torch_dtype": "float32",
        }
        (folder / "config.json").write_text(json.dumps(config, indent=1))
        tokens = list(meta["tokenizer.ggml.tokens"])
        types = meta["tokenizer.ggml.token_type"]
        special = [token for token, kind in zip(tokens, types, strict=True) if kind == tokenizer_files.CONTROL]
        tokenizer_config = {
            "tokenizer_class": "GPT2Tokenizer",
            "bos_token": tokens[1],
            "eos_token": tokens[2],
            "unk_token": tokens[0],
            "pad_token": tokens[2],
            "chat_template": meta["tokenizer.chat_template"],
        }
        tokenizer_files.write_byte_level(
            folder,
            ByteLevel(tokens, list(meta["tokenizer.ggml.merges"]), special, split_digits=True, config=tokenizer_config),
        )
        write_shards(folder, _entries(file, heads=9, kv_heads=3))
    return final


if __name__ == "__main__":
    for build in (gemma_folder, smollm2_folder):
        print(build())
