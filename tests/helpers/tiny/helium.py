"""Helium."""

from __future__ import annotations

from typing import Any

from tests.helpers.tiny import llama
from tests.helpers.tiny.model import FAMILIES, Family, Shapes, TinyModel


def _shapes(model: TinyModel) -> Shapes:
    matrices = llama.attention(model) | llama.gated(model)
    biased = [name for name in llama.biased(model, matrices) if name != "self_attn.o_proj"]
    return llama.shapes(model, matrices, llama.norms(model), biased)


FAMILIES["helium"] = Family(
    shapes=_shapes, gguf_names=llama.GGUF_NAMES, metadata=llama.metadata, architecture="llama"
)  # fmt: skip

_HELIUM: dict[str, Any] = {
    **llama.LLAMA, "model_type": "helium", "architectures": ["HeliumForCausalLM"], "rope_theta": 100000.0,
    "rms_norm_eps": 1e-8, "pad_token_id": 0, "attention_dropout": 0.0,
}  # fmt: skip

MODELS = (
    TinyModel("helium", 141, {
        **_HELIUM, "hidden_size": 96, "intermediate_size": 150, "num_hidden_layers": 3, "num_attention_heads": 6,
        "num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": False,
    }, gguf=True),
    TinyModel("helium_bias", 142, {
        **_HELIUM, "hidden_size": 160, "intermediate_size": 112, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 2, "head_dim": 80, "tie_word_embeddings": True, "attention_bias": True,
        "mlp_bias": True, "rms_norm_eps": 1e-3,
    }, gguf=True),
)  # fmt: skip
