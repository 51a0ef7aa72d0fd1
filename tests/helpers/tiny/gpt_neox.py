"""GPT-NeoX."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.helpers.tiny.model import FAMILIES, VOCAB, F32Array, Family, Shapes, TinyModel


def _shapes(model: TinyModel) -> Shapes:
    c = model.config
    width, inner = c["hidden_size"], c["intermediate_size"]
    matrices = {
        "attention.query_key_value": (3 * width, width),
        "attention.dense": (width, width),
        "mlp.dense_h_to_4h": (inner, width),
        "mlp.dense_4h_to_h": (width, inner),
    }
    yield "gpt_neox.embed_in.weight", (c["vocab_size"], width)
    for i in range(model.n_layers):
        for name, shape in matrices.items():
            yield f"gpt_neox.layers.{i}.{name}.weight", shape
            if c.get("attention_bias", True) or name.startswith("mlp"):
                yield f"gpt_neox.layers.{i}.{name}.bias", shape[:1]
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield f"gpt_neox.layers.{i}.{name}.weight", (width,)
            yield f"gpt_neox.layers.{i}.{name}.bias", (width,)
    yield "gpt_neox.final_layer_norm.weight", (width,)
    yield "gpt_neox.final_layer_norm.bias", (width,)
    if not model.tied:
        yield "embed_out.weight", (c["vocab_size"], width)


def _by_kind(model: TinyModel, name: str, array: F32Array) -> F32Array:
    """All rows of q, then k, then v (``GPTNeoXModel.modify_tensors`` of llama.cpp's converter)."""
    if not name.endswith("query_key_value"):
        return array
    heads = array.reshape(model.config["num_attention_heads"], 3, -1, *array.shape[1:])
    return np.ascontiguousarray(heads.swapaxes(0, 1)).reshape(array.shape)


def _metadata(writer: Any, model: TinyModel) -> None:
    c = model.config
    writer.add_context_length(c["max_position_embeddings"])
    writer.add_embedding_length(c["hidden_size"])
    writer.add_feed_forward_length(c["intermediate_size"])
    writer.add_head_count(c["num_attention_heads"])
    writer.add_rope_dimension_count(int(c["rotary_pct"] * (c["hidden_size"] // c["num_attention_heads"])))
    writer.add_parallel_residual(c.get("use_parallel_residual", True))
    writer.add_layer_norm_eps(c["layer_norm_eps"])


FAMILIES["gpt_neox"] = Family(
    shapes=_shapes,
    gguf_names={
        "gpt_neox.embed_in": "token_embd", "gpt_neox.final_layer_norm": "output_norm", "embed_out": "output",
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
        "attention.query_key_value": "attn_qkv", "attention.dense": "attn_output", "mlp.dense_h_to_4h": "ffn_up",
        "mlp.dense_4h_to_h": "ffn_down",
    },
    metadata=_metadata,
    architecture="gptneox",
    convert=_by_kind,
    layers="gpt_neox.layers.",
    embedding="gpt_neox.embed_in",
    final_norm="gpt_neox.final_layer_norm",
)  # fmt: skip

_GPT_NEOX: dict[str, Any] = {
    "model_type": "gpt_neox", "architectures": ["GPTNeoXForCausalLM"], "vocab_size": VOCAB, "layer_norm_eps": 1e-5,
    "hidden_act": "gelu", "max_position_embeddings": 256, "rotary_emb_base": 10000, "rotary_pct": 0.25,
    "bos_token_id": 0, "eos_token_id": 0, "tie_word_embeddings": False, "use_parallel_residual": True,
}  # fmt: skip

MODELS = (
    TinyModel("gpt_neox", 103, {  # as Pythia
        **_GPT_NEOX, "hidden_size": 96, "intermediate_size": 176, "num_hidden_layers": 3, "num_attention_heads": 6,
    }, gguf=True),
    TinyModel("gpt_neox_sequential", 104, {  # one branch after the other, no biases, larger rotated parts
        **_GPT_NEOX, "hidden_size": 160, "intermediate_size": 112, "num_hidden_layers": 2, "num_attention_heads": 2,
        "use_parallel_residual": False, "attention_bias": False, "rotary_pct": 0.5, "hidden_act": "gelu_new",
        "layer_norm_eps": 1e-3,
    }),
)  # fmt: skip
