"""SmolLM3."""

from __future__ import annotations

from typing import Any

from tests.helpers.tiny import llama
from tests.helpers.tiny.model import FAMILIES, Family, TinyModel

FAMILIES["smollm3"] = Family(
    shapes=llama.plain_shapes,
    gguf_names=llama.GGUF_NAMES,
    metadata=llama.metadata,
    convert=llama.interleaved,
    tied=True,
)

_SMOLLM3: dict[str, Any] = {
    **llama.LLAMA, "model_type": "smollm3", "architectures": ["SmolLM3ForCausalLM"], "rope_theta": 5000000.0,
    "pad_token_id": 0,
}  # fmt: skip

MODELS = (
    TinyModel("smollm3", 95, {
        **_SMOLLM3, "hidden_size": 96, "intermediate_size": 150, "num_hidden_layers": 5, "num_attention_heads": 6,
        "num_key_value_heads": 2, "tie_word_embeddings": True, "use_sliding_window": False, "sliding_window": None,
        "no_rope_layers": [1, 1, 1, 0, 1], "no_rope_layer_interval": 4,
        "layer_types": ["full_attention"] * 5,
    }, gguf=True),
    TinyModel("smollm3_window", 96, {  # layers without a rotation have a window; biases
        **_SMOLLM3, "hidden_size": 160, "intermediate_size": 112, "num_hidden_layers": 4, "num_attention_heads": 2,
        "num_key_value_heads": 1, "tie_word_embeddings": False, "use_sliding_window": True, "sliding_window": 19,
        "no_rope_layer_interval": 2, "attention_bias": True, "mlp_bias": True,
    }),
)  # fmt: skip
