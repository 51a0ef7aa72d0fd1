"""ERNIE 4.5."""

from __future__ import annotations

from typing import Any

from tests.helpers.tiny import llama
from tests.helpers.tiny.model import FAMILIES, Family, Shapes, TinyModel


def _shapes(model: TinyModel) -> Shapes:
    matrices = llama.attention(model) | llama.gated(model)
    return llama.shapes(model, matrices, llama.norms(model), matrices if model.text.get("use_bias") else ())


FAMILIES["ernie4_5"] = Family(shapes=_shapes, gguf_names=llama.GGUF_NAMES, metadata=llama.metadata, tied=True)

_ERNIE: dict[str, Any] = {
    **llama.LLAMA, "model_type": "ernie4_5", "architectures": ["Ernie4_5ForCausalLM"], "rope_theta": 500000.0,
    "pad_token_id": 0,
}  # fmt: skip

MODELS = (
    TinyModel("ernie4_5", 97, {
        **_ERNIE, "hidden_size": 96, "intermediate_size": 150, "num_hidden_layers": 3, "num_attention_heads": 6,
        "num_key_value_heads": 2, "head_dim": 20, "use_bias": False, "tie_word_embeddings": True,
    }, gguf=True),
    TinyModel("ernie4_5_head80", 98, {
        **_ERNIE, "hidden_size": 160, "intermediate_size": 112, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 80, "use_bias": True, "tie_word_embeddings": False,
    }, gguf=True),
)  # fmt: skip
