"""Falcon."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.helpers.tiny.model import FAMILIES, VOCAB, F32Array, Family, Shapes, TinyModel


def _shapes(model: TinyModel) -> Shapes:
    c = model.config
    width, heads, new = c["hidden_size"], c["num_attention_heads"], c.get("new_decoder_architecture", False)
    inner = c.get("ffn_hidden_size") or 4 * width
    kv_heads = c["num_kv_heads"] if new else 1 if c.get("multi_query", True) else heads
    matrices = {
        "self_attention.query_key_value": ((heads + 2 * kv_heads) * (width // heads), width),
        "self_attention.dense": (width, width),
        "mlp.dense_h_to_4h": (inner, width),
        "mlp.dense_4h_to_h": (width, inner),
    }
    norms = ["input_layernorm"]
    if new and c.get("num_ln_in_parallel_attn", 2) == 2:
        norms = ["ln_attn", "ln_mlp"]
    elif not c.get("parallel_attn", True):
        norms.append("post_attention_layernorm")
    yield "word_embeddings.weight", (c["vocab_size"], width)
    for i in range(model.n_layers):
        for name, shape in matrices.items():
            yield f"h.{i}.{name}.weight", shape
            if c.get("bias"):
                yield f"h.{i}.{name}.bias", shape[:1]
        for name in norms:
            yield f"h.{i}.{name}.weight", (width,)
            yield f"h.{i}.{name}.bias", (width,)
    yield "ln_f.weight", (width,)
    yield "ln_f.bias", (width,)
    if not model.tied:
        yield "lm_head.weight", (c["vocab_size"], width)


def _by_kind(model: TinyModel, name: str, array: F32Array) -> F32Array:
    """All rows of q, then k, then v (``FalconModel.modify_tensors`` of llama.cpp's converter)."""
    if not name.endswith("query_key_value"):
        return array
    heads, kv_heads = model.config["num_attention_heads"], model.config.get("num_kv_heads", 1)
    groups = array.reshape(kv_heads, heads // kv_heads + 2, array.shape[1] // heads, -1)
    return np.concatenate([groups[:, :-2], groups[:, -2:-1], groups[:, -1:]], axis=None).reshape(array.shape)


def _metadata(writer: Any, model: TinyModel) -> None:
    c = model.config
    writer.add_context_length(2048)
    writer.add_tensor_data_layout("jploski")
    writer.add_embedding_length(c["hidden_size"])
    writer.add_feed_forward_length(4 * c["hidden_size"])
    writer.add_head_count(c["num_attention_heads"])
    writer.add_head_count_kv(c.get("num_kv_heads", 1))
    writer.add_layer_norm_eps(c["layer_norm_epsilon"])


FAMILIES["falcon"] = Family(
    shapes=_shapes,
    gguf_names={
        "word_embeddings": "token_embd", "ln_f": "output_norm", "lm_head": "output", "input_layernorm": "attn_norm",
        "ln_mlp": "attn_norm", "ln_attn": "attn_norm_2", "self_attention.query_key_value": "attn_qkv",
        "self_attention.dense": "attn_output", "mlp.dense_h_to_4h": "ffn_up", "mlp.dense_4h_to_h": "ffn_down",
    },
    metadata=_metadata,
    convert=_by_kind,
    layers="h.",
    embedding="word_embeddings",
    final_norm="ln_f",
    tied=True,
)  # fmt: skip

_FALCON: dict[str, Any] = {
    "model_type": "falcon", "architectures": ["FalconForCausalLM"], "vocab_size": VOCAB, "layer_norm_epsilon": 1e-5,
    "alibi": False, "apply_residual_connection_post_layernorm": False, "attention_dropout": 0.0, "hidden_dropout": 0.0,
    "bos_token_id": 0, "eos_token_id": 0, "bias": False, "multi_query": True, "parallel_attn": True,
    "new_decoder_architecture": False,
}  # fmt: skip

MODELS = (
    TinyModel("falcon", 81, {  # as Falcon 7B
        **_FALCON, "hidden_size": 100, "num_hidden_layers": 3, "num_attention_heads": 5,
    }, gguf=True, prefix="transformer."),
    TinyModel("falcon_new", 82, {  # as Falcon 40B
        **_FALCON, "hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 6, "num_kv_heads": 2,
        "new_decoder_architecture": True, "tie_word_embeddings": False,
    }, gguf=True, prefix="transformer."),
    TinyModel("falcon_head80", 83, {  # as Falcon 2 11B: the new architecture with one norm; biases
        **_FALCON, "hidden_size": 160, "num_hidden_layers": 2, "num_attention_heads": 2, "num_kv_heads": 1,
        "new_decoder_architecture": True, "num_ln_in_parallel_attn": 1, "bias": True, "ffn_hidden_size": 203,
        "rope_theta": 500042.0, "max_position_embeddings": 8192,
    }, prefix="transformer."),
    TinyModel("falcon_sequential", 84, {  # one branch after the other, a key/value head for each query head
        **_FALCON, "hidden_size": 72, "num_hidden_layers": 2, "num_attention_heads": 3, "num_kv_heads": 3,
        "multi_query": False, "parallel_attn": False, "bias": True, "activation": "gelu_pytorch_tanh",
    }, prefix="transformer."),
)  # fmt: skip
