"""Llama and Mistral, and the parts that their relatives share."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from tests.helpers.tiny.model import FAMILIES, VOCAB, F32Array, Family, Shapes, TinyModel

GGUF_NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
}  # fmt: skip


def head_dim(model: TinyModel) -> int:
    """Return the width of a head."""
    c = model.text
    return int(c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"])


def attention(model: TinyModel) -> dict[str, tuple[int, int]]:
    """Return the matrices of attention: q, k, v and out."""
    c = model.text
    width, rows = c["hidden_size"], c["num_attention_heads"] * head_dim(model)
    kv = c.get("num_key_value_heads", c["num_attention_heads"]) * head_dim(model)
    return {
        "self_attn.q_proj": (rows, width),
        "self_attn.k_proj": (kv, width),
        "self_attn.v_proj": (kv, width),
        "self_attn.o_proj": (width, rows),
    }


def gated(model: TinyModel) -> dict[str, tuple[int, int]]:
    """Return the matrices of the feed-forward: gate, up and down."""
    width, inner = model.text["hidden_size"], model.text["intermediate_size"]
    return {"mlp.gate_proj": (inner, width), "mlp.up_proj": (inner, width), "mlp.down_proj": (width, inner)}


def norms(model: TinyModel, *more: str) -> dict[str, int]:
    """Return the two norms of a layer, and ``more`` as wide as them."""
    return dict.fromkeys(("input_layernorm", "post_attention_layernorm", *more), model.text["hidden_size"])


def qk_norms(model: TinyModel) -> dict[str, int]:
    """Return the norms of query and key heads."""
    return dict.fromkeys(("self_attn.q_norm", "self_attn.k_norm"), head_dim(model))


def shapes(
    model: TinyModel,
    matrices: Mapping[str, tuple[int, ...]],
    vectors: Mapping[str, int],
    biased: Collection[str] = (),
) -> Shapes:
    """Yield the embedding, every layer's ``matrices`` and ``vectors``, the final norm, and the head.

    Those of ``biased`` have a bias, and so has the final norm if the norms are among them.
    """
    c = model.text
    yield "model.embed_tokens.weight", (c["vocab_size"], c["hidden_size"])
    for i in range(model.n_layers):
        for name, shape in (*matrices.items(), *((name, (size,)) for name, size in vectors.items())):
            yield f"model.layers.{i}.{name}.weight", shape
            if name in biased:
                yield f"model.layers.{i}.{name}.bias", shape[:1]
    yield "model.norm.weight", (c["hidden_size"],)
    if "input_layernorm" in biased:
        yield "model.norm.bias", (c["hidden_size"],)
    if not model.tied:
        yield "lm_head.weight", (c["vocab_size"], c["hidden_size"])


def biased(model: TinyModel, matrices: Collection[str]) -> list[str]:
    """Return the matrices that have biases by ``attention_bias`` and ``mlp_bias``."""
    return [
        name for name in matrices if model.text.get("attention_bias" if name.startswith("self_attn") else "mlp_bias")
    ]


def plain_shapes(model: TinyModel) -> Shapes:
    """Yield the weights of a model with Llama's names and keys."""
    matrices = attention(model) | gated(model)
    return shapes(model, matrices, norms(model), biased(model, matrices))


def interleaved(model: TinyModel, name: str, array: F32Array) -> F32Array:
    """Interleave the halves of the heads of q and k (``LlamaModel.permute`` of llama.cpp's converter)."""
    if not name.endswith(("q_proj", "k_proj")):
        return array
    heads = model.config["num_attention_heads"] if name.endswith("q_proj") else model.config["num_key_value_heads"]
    halves = array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(array.shape)


def sizes(writer: Any, model: TinyModel) -> None:
    """Write the sizes that most families have."""
    c = model.config
    writer.add_context_length(c["max_position_embeddings"])
    writer.add_embedding_length(c["hidden_size"])
    writer.add_feed_forward_length(c["intermediate_size"])
    writer.add_head_count(c["num_attention_heads"])
    writer.add_head_count_kv(c["num_key_value_heads"])


def head_sizes(writer: Any, model: TinyModel) -> None:
    """Write the width of a head."""
    writer.add_key_length(head_dim(model))
    writer.add_value_length(head_dim(model))


def rotation(writer: Any, model: TinyModel) -> None:
    """Write the rotated part of a head, and YaRN's scaling."""
    import gguf

    c = model.config
    scaling = c.get("rope_scaling") or {}
    if scaling.get("rope_type") == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(scaling["factor"])
        writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
    writer.add_rope_dimension_count(int(head_dim(model) * c.get("partial_rotary_factor", 1)))
    writer.add_vocab_size(c["vocab_size"])


def metadata(writer: Any, model: TinyModel) -> None:
    """Write what a model with Llama's keys says of itself."""
    sizes(writer, model)
    writer.add_layer_norm_rms_eps(model.config["rms_norm_eps"])
    writer.add_rope_freq_base(model.config["rope_theta"])
    head_sizes(writer, model)
    rotation(writer, model)


FAMILIES["llama"] = Family(shapes=plain_shapes, gguf_names=GGUF_NAMES, metadata=metadata, convert=interleaved)
FAMILIES["mistral"] = Family(
    shapes=plain_shapes, gguf_names=GGUF_NAMES, metadata=metadata, convert=interleaved, architecture="llama"
)

LLAMA: dict[str, Any] = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": VOCAB, "rms_norm_eps": 1e-5,
    "hidden_act": "silu", "max_position_embeddings": 256, "rope_theta": 10000.0, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
_MISTRAL = {**LLAMA, "model_type": "mistral", "architectures": ["MistralForCausalLM"]}

MODELS = (
    TinyModel("llama", 31, {
        **LLAMA, "hidden_size": 96, "intermediate_size": 176, "num_hidden_layers": 3, "num_attention_heads": 6,
        "num_key_value_heads": 2, "tie_word_embeddings": False,
    }, gguf=True),
    TinyModel("llama_head80", 32, {
        **LLAMA, "hidden_size": 160, "intermediate_size": 130, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 2, "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True,
        "rms_norm_eps": 1e-3,
    }, gguf=True),
    TinyModel("llama3_scaled", 33, {
        **LLAMA, "hidden_size": 72, "intermediate_size": 112, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 1, "head_dim": 20, "tie_word_embeddings": True, "rope_theta": 500.0,
        "rope_scaling": {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    }, gguf=True),
    TinyModel("llama_linear", 34, {
        **LLAMA, "hidden_size": 84, "intermediate_size": 100, "num_hidden_layers": 2, "num_attention_heads": 3,
        "num_key_value_heads": 1, "tie_word_embeddings": False, "hidden_act": "gelu",
        "rope_scaling": {"type": "linear", "factor": 2.5},
    }),
    TinyModel("llama_gelu_tanh", 35, {  # keys as transformers 5 writes them
        **{key: value for key, value in LLAMA.items() if key != "rope_theta"},
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 4, "tie_word_embeddings": True, "hidden_act": "gelu_pytorch_tanh", "head_dim": 12,
        "rope_parameters": {"rope_type": "default", "rope_theta": 700.0},
    }),
    TinyModel("mistral_window", 41, {
        **_MISTRAL, "hidden_size": 96, "intermediate_size": 150, "num_hidden_layers": 3, "num_attention_heads": 6,
        "num_key_value_heads": 2, "head_dim": 24, "sliding_window": 13, "tie_word_embeddings": False,
        "rope_theta": 1000000.0,
    }),
    TinyModel("mistral_full", 42, {
        **_MISTRAL, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 1, "sliding_window": None, "tie_word_embeddings": False,
    }, gguf=True),
)  # fmt: skip

# Rows of 256, so that every block type fits: for models with quantised matrices.
QUANTIZED = TinyModel("quantized", 51, {
    **LLAMA, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 128, "tie_word_embeddings": True,
})  # fmt: skip
