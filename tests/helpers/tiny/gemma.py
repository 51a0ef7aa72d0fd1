"""Gemma 2 and 3."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.helpers.tiny import llama
from tests.helpers.tiny.model import FAMILIES, VOCAB, F32Array, Family, Shapes, TinyModel


def _shapes(model: TinyModel) -> Shapes:
    matrices = llama.attention(model) | llama.gated(model)
    vectors = llama.norms(model, "pre_feedforward_layernorm", "post_feedforward_layernorm")
    if model.text["model_type"] == "gemma3_text":
        vectors |= llama.qk_norms(model)
    return llama.shapes(model, matrices, vectors, llama.biased(model, matrices))


def _plus_one(model: TinyModel, name: str, array: F32Array) -> F32Array:
    return array + np.float32(1) if name.endswith("norm") else array


def _gemma2(writer: Any, model: TinyModel) -> None:
    """Without ``rope.freq_base``, as llama.cpp's converter writes it."""
    llama.sizes(writer, model)
    writer.add_layer_norm_rms_eps(model.config["rms_norm_eps"])
    llama.head_sizes(writer, model)
    writer.add_attn_logit_softcapping(model.config["attn_logit_softcapping"])
    writer.add_final_logit_softcapping(model.config["final_logit_softcapping"])
    writer.add_sliding_window(model.config["sliding_window"])


def _gemma3(writer: Any, model: TinyModel) -> None:
    llama.sizes(writer, model)
    writer.add_layer_norm_rms_eps(model.config["rms_norm_eps"])
    writer.add_rope_freq_base(model.config["rope_theta"])
    llama.head_sizes(writer, model)
    writer.add_sliding_window(model.config["sliding_window"])


GGUF_NAMES = {
    **llama.GGUF_NAMES, "post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}  # fmt: skip
FAMILIES["gemma2"] = Family(
    shapes=_shapes, gguf_names=GGUF_NAMES, metadata=_gemma2, convert=_plus_one, offset_norms=True, tied=True,
    pieces=True,
)  # fmt: skip
FAMILIES["gemma3_text"] = Family(
    shapes=_shapes, gguf_names=GGUF_NAMES, metadata=_gemma3, convert=_plus_one, offset_norms=True, tied=True,
    pieces=True, architecture="gemma3",
)  # fmt: skip

_GEMMA3: dict[str, Any] = {
    "model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"], "vocab_size": VOCAB, "rms_norm_eps": 1e-6,
    "hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 256, "bos_token_id": 2, "eos_token_id": [1, 5],
    "pad_token_id": 0, "final_logit_softcapping": None, "attn_logit_softcapping": None, "attention_bias": False,
}  # fmt: skip
_GEMMA2: dict[str, Any] = {
    "model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"], "vocab_size": VOCAB, "rms_norm_eps": 1e-6,
    "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 256,
    "rope_theta": 10000.0, "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0, "cache_implementation": "hybrid",
    "attention_bias": False, "attention_dropout": 0.0,
}  # fmt: skip

MODELS = (
    TinyModel("gemma3", 21, {  # the published pattern (5 local layers, 1 global), keys as on the hub
        **_GEMMA3, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 7, "num_attention_heads": 4,
        "num_key_value_heads": 1, "head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 24, "rope_theta":
        1000000.0, "rope_local_base_freq": 10000.0, "rope_scaling": None,
        "_sliding_window_pattern": 6,
    }, gguf=True),
    TinyModel("gemma3_head80", 22, {  # untied, scaled global RoPE, capped logits, keys of transformers 5
        **_GEMMA3, "hidden_size": 96, "intermediate_size": 140, "num_hidden_layers": 4, "num_attention_heads": 6,
        "num_key_value_heads": 2, "head_dim": 80, "query_pre_attn_scalar": 56, "sliding_window": 13,
        "tie_word_embeddings": False, "final_logit_softcapping": 5.0,
        "layer_types": ["sliding_attention", "full_attention", "full_attention", "sliding_attention"],
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0},
            "full_attention": {"rope_type": "linear", "rope_theta": 100000.0, "factor": 8.0},
        },
    }),
    TinyModel("gemma3_head20", 23, {  # a head_dim that is not hidden / heads, an activation of another kind
        **_GEMMA3, "hidden_size": 72, "intermediate_size": 100, "num_hidden_layers": 3, "num_attention_heads": 3,
        "num_key_value_heads": 3, "head_dim": 20, "query_pre_attn_scalar": 24, "sliding_window": 65,
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
        "rope_theta": 20000.0, "rope_local_base_freq": 300.0, "hidden_activation": "silu",
    }),
    TinyModel("gemma2", 24, {
        **_GEMMA2, "hidden_size": 64, "intermediate_size": 112, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 20, "query_pre_attn_scalar": 20, "sliding_window": 13,
        "attn_logit_softcapping": 1.5, "final_logit_softcapping": 4.0,
    }, gguf=True),
    TinyModel("gemma2_head80", 25, {  # the default pattern and caps given up, biases, untied
        **_GEMMA2, "hidden_size": 96, "intermediate_size": 140, "num_hidden_layers": 3, "num_attention_heads": 6,
        "num_key_value_heads": 1, "head_dim": 80, "query_pre_attn_scalar": 56, "sliding_window": 33,
        "attn_logit_softcapping": None, "final_logit_softcapping": None, "attention_bias": True,
        "tie_word_embeddings": False, "layer_types": ["full_attention", "full_attention", "sliding_attention"],
    }),
    TinyModel("gemma3_vision", 26, {  # its text model in text_config, next to a vision tower
        "model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"], "boi_token_index": 4,
        "eoi_token_index": 5, "image_token_index": 6, "mm_tokens_per_image": 4, "eos_token_id": [1, 5],
        "text_config": {
            **_GEMMA3, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 32, "query_pre_attn_scalar": 40, "sliding_window": 24,
            "sliding_window_pattern": 2, "rope_theta": 1000000.0, "rope_local_base_freq": 10000.0,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
        "vision_config": {
            "model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
            "num_attention_heads": 2, "image_size": 28, "patch_size": 14, "vision_use_head": False,
        },
    }, prefix="language_model."),
)  # fmt: skip
