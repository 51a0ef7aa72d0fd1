"""The tiny random models built in memory, as Hugging Face folders, and as GGUF files under llama.cpp's conventions.

``python -m tests.helpers.tiny_files FOLDER`` writes every tiny model as a Hugging Face folder and, where the format has
the architecture, as a GGUF file.
"""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.helpers import tokenizer_files
from tests.helpers.tiny_models import GEMMAS, MODELS, VOCAB, TinyModel

F32Array = npt.NDArray[np.float32]


def build(model: TinyModel, weights: Mapping[str, F32Array] | None = None, **options: Any) -> Any:
    """The model in pyml (pyml_nn only), with its own weights or the given ones; ``options`` go to ``Model``."""
    from pyml_nn.models import ARCHITECTURES
    from pyml_nn.weights import ArrayWeights

    module = ARCHITECTURES[model.config["model_type"]]
    return module.Model(module.Config.from_hf(model.config), ArrayWeights(weights or model.weights()), **options)


def write_hf(model: TinyModel, folder: Path) -> Path:
    """Write the model as a Hugging Face folder: config.json, model.safetensors (f32) and tokenizer files."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(model.config, indent=1))
    weights = model.weights()
    if "vision_config" in model.config:  # of these a text model has no use
        width = model.config["vision_config"]["hidden_size"]
        weights["vision_tower.vision_model.post_layernorm.weight"] = np.ones(width, np.float32)
        weights["multi_modal_projector.mm_soft_emb_norm.weight"] = np.zeros(width, np.float32)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    if model.family in GEMMAS:
        tokenizer_files.write_sentencepiece(folder, tokenizer_files.tiny_pieces(VOCAB))
    else:
        tokenizer_files.write_byte_level(folder, tokenizer_files.tiny_byte_level(VOCAB))
    return folder


# ---- GGUF

_GGUF_NAMES = {
    "gpt2": {
        "wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm", "lm_head": "output",
        "ln_1": "attn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output",
        "ln_2": "ffn_norm", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
    },
    "llama": {
        "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "input_layernorm":
        "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj":
        "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm":
        "attn_k_norm",
    },
}  # fmt: skip
_GGUF_NAMES["falcon"] = {
    "word_embeddings": "token_embd", "ln_f": "output_norm", "lm_head": "output", "input_layernorm": "attn_norm",
    "ln_mlp": "attn_norm", "ln_attn": "attn_norm_2", "self_attention.query_key_value": "attn_qkv",
    "self_attention.dense": "attn_output", "mlp.dense_h_to_4h": "ffn_up", "mlp.dense_4h_to_h": "ffn_down",
}  # fmt: skip
_GGUF_NAMES["phi3"] = {
    **_GGUF_NAMES["llama"], "self_attn.qkv_proj": "attn_qkv", "mlp.gate_up_proj": "ffn_up",
}  # fmt: skip
_GGUF_NAMES["mixtral"] = {
    **_GGUF_NAMES["llama"], "block_sparse_moe.gate": "ffn_gate_inp", "w1": "ffn_gate_exps", "w2": "ffn_down_exps",
    "w3": "ffn_up_exps",
}  # fmt: skip
for _family in ("mistral", "qwen2", "qwen3", "stablelm"):
    _GGUF_NAMES[_family] = _GGUF_NAMES["llama"]
_GGUF_ARCHITECTURES = {
    "gemma3_text": "gemma3",
    "mistral": "llama",
    "mixtral": "llama",
}  # where it is not the model_type
_GGUF_NAMES["gemma2"] = _GGUF_NAMES["gemma3_text"] = {
    **_GGUF_NAMES["llama"], "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm",
}  # fmt: skip


def write_gguf(
    model: TinyModel, path: Path, dtype: str = "f32", more: Callable[[Any], None] | None = None, **options: Any
) -> Path:
    """Write the model as a GGUF file with the ``gguf`` package, under llama.cpp's conventions.

    These are: q and k rows of ``llama`` permuted for interleaved RoPE, 1 added to Gemma's norms, GPT-2's matrices
    transposed, Llama 3's RoPE scaling as a tensor of frequency factors. Matrices are stored as ``dtype``, all else as
    f32; a K-quant or IQ4_NL matrix gets random blocks in place of the model's values: the package cannot make those.
    ``more`` adds metadata. Options are those of the package's writer, which can write split models.
    """
    import gguf

    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, gguf_architecture(model), **options)
    _write_metadata(writer, model)
    if more is not None:
        more(writer)
    for name, array in _gguf_tensors(model):
        if array.ndim == 1 or dtype == "f32" or "position" in name:
            writer.add_tensor(name, array)
            continue
        kind = gguf.GGMLQuantizationType[dtype.upper()]
        if dtype.upper() in ("F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"):
            data = gguf.quants.quantize(array, kind)
        else:
            data = _random_blocks(dtype, array.shape, zlib.crc32(name.encode()))
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def gguf_architecture(model: TinyModel) -> str:
    """The name of the model's architecture in GGUF files."""
    return _GGUF_ARCHITECTURES.get(model.family, model.family)


def _gguf_tensors(model: TinyModel) -> Iterator[tuple[str, F32Array]]:
    table = _GGUF_NAMES[model.family]
    config = model.config
    experts: dict[str, list[F32Array]] = {}
    for full_name, array in model.weights().items():
        name, kind = full_name.removeprefix(model.prefix).rsplit(".", 1)
        layer = ""
        for start in ("h.", "model.layers."):
            if name.startswith(start):
                number, name = name.removeprefix(start).split(".", 1)
                layer = f"blk.{number}."
        if model.family == "gpt2" and array.ndim == 2 and name not in ("wte", "wpe", "lm_head"):
            array = np.ascontiguousarray(array.T)
        if name.endswith("query_key_value"):  # FalconModel.modify_tensors
            heads, kv_heads = config["num_attention_heads"], config.get("num_kv_heads", 1)
            groups = array.reshape(kv_heads, heads // kv_heads + 2, array.shape[1] // heads, -1)
            array = np.concatenate([groups[:, :-2], groups[:, -2:-1], groups[:, -1:]], axis=None).reshape(array.shape)
        if model.family in GEMMAS and name.endswith("norm"):
            array = array + np.float32(1)
        if gguf_architecture(model) == "llama" and name.endswith(("q_proj", "k_proj")):
            heads = config["num_attention_heads"] if name.endswith("q_proj") else config["num_key_value_heads"]
            halves = array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:])
            array = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(array.shape)
        if ".experts." in name:
            experts.setdefault(f"{layer}{table[name.rsplit('.', 1)[1]]}.{kind}", []).append(array)
            continue
        yield f"{layer}{table[name]}.{kind}", array
    for stacked, arrays in experts.items():
        yield stacked, np.stack(arrays)
    scaling: Mapping[str, Any] = config.get("rope_scaling") or {}
    if scaling.get("rope_type") == "llama3":
        yield "rope_freqs.weight", _llama3_factors(config, scaling)
    for length in ("long", "short"):
        if f"{length}_factor" in scaling:
            yield f"rope_factors_{length}.weight", np.array(scaling[f"{length}_factor"], np.float32)


def _llama3_factors(config: Mapping[str, Any], scaling: Mapping[str, Any]) -> F32Array:
    """Divisors of the frequencies. Source: llama.cpp's convert_hf_to_gguf.py, class LlamaModel."""
    half = config["head_dim"] // 2
    wavelength = 2 * np.pi * config["rope_theta"] ** (np.arange(half) / half)
    turns = scaling["original_max_position_embeddings"] / wavelength
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return np.asarray(1 / ((1 - smooth) / scaling["factor"] + smooth), np.float32)


def _write_metadata(writer: Any, model: TinyModel) -> None:
    import gguf

    c = model.config
    writer.add_block_count(model.n_layers)
    if model.family == "gpt2":
        writer.add_context_length(c["n_positions"])
        writer.add_embedding_length(c["n_embd"])
        writer.add_feed_forward_length(c.get("n_inner") or 4 * c["n_embd"])
        writer.add_head_count(c["n_head"])
        writer.add_layer_norm_eps(c["layer_norm_epsilon"])
        tokenizer_files.add_byte_level(writer, tokenizer_files.tiny_byte_level(VOCAB))
        return
    if model.family == "falcon":
        writer.add_context_length(2048)
        writer.add_tensor_data_layout("jploski")
        writer.add_embedding_length(c["hidden_size"])
        writer.add_feed_forward_length(4 * c["hidden_size"])
        writer.add_head_count(c["num_attention_heads"])
        writer.add_head_count_kv(c.get("num_kv_heads", 1))
        writer.add_layer_norm_eps(c["layer_norm_epsilon"])
        tokenizer_files.add_byte_level(writer, tokenizer_files.tiny_byte_level(VOCAB))
        return
    head_dim = c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]
    writer.add_context_length(c["max_position_embeddings"])
    writer.add_embedding_length(c["hidden_size"])
    writer.add_feed_forward_length(c["intermediate_size"])
    writer.add_head_count(c["num_attention_heads"])
    writer.add_head_count_kv(c["num_key_value_heads"])
    if model.family == "stablelm":
        writer.add_layer_norm_eps(c["layer_norm_eps"])
        writer.add_parallel_residual(c["use_parallel_residual"])
    else:
        writer.add_layer_norm_rms_eps(c["rms_norm_eps"])
    if model.family != "gemma2":  # llama.cpp's converter leaves it out there
        writer.add_rope_freq_base(c["rope_theta"])
    if model.family != "phi3":  # nor these
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    scaling = c.get("rope_scaling") or {}
    if scaling.get("rope_type") == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(scaling["factor"])
        writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
    if model.family == "phi3":
        original = c["original_max_position_embeddings"]
        writer.add_rope_scaling_orig_ctx_len(original)
        writer.add_sliding_window(c["sliding_window"] or 0)
        if scaling:
            scale = c["max_position_embeddings"] / original
            writer.add_rope_scaling_attn_factors(np.sqrt(1 + np.log(scale) / np.log(original)))
    if model.family == "mixtral":
        writer.add_expert_count(c["num_local_experts"])
        writer.add_expert_used_count(c["num_experts_per_tok"])
    if model.family == "gemma2":
        writer.add_attn_logit_softcapping(c["attn_logit_softcapping"])
        writer.add_final_logit_softcapping(c["final_logit_softcapping"])
    if model.family in GEMMAS:
        writer.add_sliding_window(c["sliding_window"])
        tokenizer_files.add_pieces(writer, tokenizer_files.tiny_pieces(VOCAB))
    else:
        writer.add_rope_dimension_count(int(head_dim * c.get("partial_rotary_factor", 1)))
        writer.add_vocab_size(c["vocab_size"])
        tokenizer_files.add_byte_level(writer, tokenizer_files.tiny_byte_level(VOCAB))


# Offsets of the 16-bit scales (d, and dmin or m) in a stored block; everything else in it may be any bits.
_SCALES = {"q2_k": (80, 82), "q3_k": (108,), "q4_k": (0, 2), "q5_k": (0, 2), "q6_k": (208,), "iq4_nl": (0,)}


def _random_blocks(dtype: str, shape: tuple[int, ...], seed: int) -> npt.NDArray[np.uint8]:
    """Finite random blocks of a type, as an array of (rows, bytes a row)."""
    import gguf

    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[dtype.upper()]]
    random = np.random.RandomState(seed)
    count = int(np.prod(shape)) // block
    blocks = random.randint(0, 256, (count, size)).astype(np.uint8)
    for offset in _SCALES[dtype.lower()]:
        # Codes times sub-scales reach a few hundred to two thousand: weights stay near 0.1.
        scale = random.uniform(0.5e-4, 2e-4, count) * (4 if dtype.lower() == "iq4_nl" else 1)
        blocks[:, offset : offset + 2] = scale.astype(np.float16).view(np.uint8).reshape(count, 2)
    return blocks.reshape(shape[0], -1)


def main(folder: Path) -> None:
    """Write every tiny model below ``folder``."""
    for model in MODELS.values():
        print(write_hf(model, folder / model.name))
        if model.gguf:
            print(write_gguf(model, folder / f"{model.name}.gguf"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
