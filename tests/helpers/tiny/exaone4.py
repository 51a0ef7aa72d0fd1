"""EXAONE 4."""

from __future__ import annotations

from typing import Any

from tests.helpers.tiny import llama
from tests.helpers.tiny.model import FAMILIES, Family, Shapes, TinyModel


def _shapes(model: TinyModel) -> Shapes:
    vectors = dict.fromkeys(("post_attention_layernorm", "post_feedforward_layernorm"), model.text["hidden_size"])
    return llama.shapes(model, llama.attention(model) | llama.gated(model), vectors | llama.qk_norms(model))


def _metadata(writer: Any, model: TinyModel) -> None:
    c = model.config
    llama.metadata(writer, model)
    if c["sliding_window"] is not None:
        writer.add_sliding_window(c["sliding_window"])
        flags = [kind == "sliding_attention" for kind in c.get("layer_types", ())]
        writer.add_sliding_window_pattern(flags or c["sliding_window_pattern"])


FAMILIES["exaone4"] = Family(
    shapes=_shapes,
    gguf_names={
        **llama.GGUF_NAMES, "post_attention_layernorm": "post_attention_norm",
        "post_feedforward_layernorm": "post_ffw_norm",
    },
    metadata=_metadata,
)  # fmt: skip

_EXAONE4: dict[str, Any] = {
    **llama.LLAMA, "model_type": "exaone4", "architectures": ["Exaone4ForCausalLM"], "rope_theta": 1000000.0,
    "pad_token_id": 0, "attention_dropout": 0.0,
}  # fmt: skip

MODELS = (
    TinyModel("exaone4", 131, {  # as the 1.2B model
        **_EXAONE4, "hidden_size": 96, "intermediate_size": 150, "num_hidden_layers": 3, "num_attention_heads": 6,
        "num_key_value_heads": 2, "head_dim": 20, "tie_word_embeddings": True, "sliding_window": None,
        "layer_types": ["full_attention"] * 3,
    }, gguf=True),
    TinyModel("exaone4_window", 132, {  # as the 32B model
        **_EXAONE4, "hidden_size": 96, "intermediate_size": 112, "num_hidden_layers": 5, "num_attention_heads": 4,
        "num_key_value_heads": 1, "tie_word_embeddings": False, "sliding_window": 19,
        "layer_types": [*["sliding_attention"] * 3, "full_attention", "sliding_attention"],
        "sliding_window_pattern": "LLLG",
    }, gguf=True),
    TinyModel("exaone4_llama3", 133, {
        **_EXAONE4, "hidden_size": 160, "intermediate_size": 112, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 2, "head_dim": 80, "tie_word_embeddings": False, "sliding_window": 13,
        "sliding_window_pattern": 2, "rope_theta": 500.0,
        "rope_scaling": {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    }, gguf=True),
)  # fmt: skip
