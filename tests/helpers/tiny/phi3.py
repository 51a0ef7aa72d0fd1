"""Phi 3."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.helpers.tiny import llama
from tests.helpers.tiny.model import FAMILIES, Family, Shapes, TinyModel


def _shapes(model: TinyModel) -> Shapes:
    width, inner = model.text["hidden_size"], model.text["intermediate_size"]
    q, k, _, out = llama.attention(model).values()
    matrices = {
        "self_attn.qkv_proj": (q[0] + 2 * k[0], width),
        "self_attn.o_proj": out,
        "mlp.gate_up_proj": (2 * inner, width),
        "mlp.down_proj": (width, inner),
    }
    return llama.shapes(model, matrices, llama.norms(model))


def _metadata(writer: Any, model: TinyModel) -> None:
    """Without the width of a head, as llama.cpp's converter writes it."""
    c = model.config
    llama.sizes(writer, model)
    writer.add_layer_norm_rms_eps(c["rms_norm_eps"])
    writer.add_rope_freq_base(c["rope_theta"])
    original = c["original_max_position_embeddings"]
    writer.add_rope_scaling_orig_ctx_len(original)
    writer.add_sliding_window(c["sliding_window"] or 0)
    if c.get("rope_scaling"):
        scale = c["max_position_embeddings"] / original
        writer.add_rope_scaling_attn_factors(np.sqrt(1 + np.log(scale) / np.log(original)))
    llama.rotation(writer, model)


FAMILIES["phi3"] = Family(
    shapes=_shapes,
    gguf_names={**llama.GGUF_NAMES, "self_attn.qkv_proj": "attn_qkv", "mlp.gate_up_proj": "ffn_up"},
    metadata=_metadata,
)


def _longrope(pairs: int) -> dict[str, Any]:
    return {
        "type": "longrope",
        "short_factor": [round(1 + 0.02 * i, 4) for i in range(pairs)],
        "long_factor": [round(1.1 + 0.3 * i, 4) for i in range(pairs)],
    }


_PHI3: dict[str, Any] = {
    **llama.LLAMA, "model_type": "phi3", "architectures": ["Phi3ForCausalLM"], "resid_pdrop": 0.0, "embd_pdrop": 0.0,
    "attention_bias": False, "tie_word_embeddings": False, "sliding_window": None, "pad_token_id": 0,
}  # fmt: skip

MODELS = (
    TinyModel("phi3", 71, {  # as Phi-3 mini 4k
        **_PHI3, "hidden_size": 96, "intermediate_size": 150, "num_hidden_layers": 3, "num_attention_heads": 6,
        "num_key_value_heads": 2, "sliding_window": 13, "original_max_position_embeddings": 256,
        "rope_scaling": None,
    }, gguf=True),
    TinyModel("phi3_long", 72, {  # as Phi-4 mini: a part of each head is rotated; the prompt is a long one
        **_PHI3, "hidden_size": 160, "intermediate_size": 112, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 1, "tie_word_embeddings": True, "original_max_position_embeddings": 37,
        "partial_rotary_factor": 0.75, "rope_scaling": _longrope(15),
    }, gguf=True),
    TinyModel("phi3_head80", 75, {  # a short prompt
        **_PHI3, "hidden_size": 160, "intermediate_size": 130, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 2, "original_max_position_embeddings": 128,
        "rope_scaling": {**_longrope(40), "original_max_position_embeddings": 128, "attention_factor": 1.2},
    }),
)  # fmt: skip
