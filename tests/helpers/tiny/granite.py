"""Granite."""

from __future__ import annotations

from typing import Any

from tests.helpers.tiny import llama
from tests.helpers.tiny.model import FAMILIES, Family, TinyModel


def _metadata(writer: Any, model: TinyModel) -> None:
    llama.metadata(writer, model)
    c = model.config
    writer.add_embedding_scale(c["embedding_multiplier"])
    writer.add_residual_scale(c["residual_multiplier"])
    writer.add_attention_scale(c["attention_multiplier"])
    writer.add_logit_scale(c["logits_scaling"])


FAMILIES["granite"] = Family(
    shapes=llama.plain_shapes, gguf_names=llama.GGUF_NAMES, metadata=_metadata, convert=llama.interleaved
)

_GRANITE: dict[str, Any] = {
    **llama.LLAMA, "model_type": "granite", "architectures": ["GraniteForCausalLM"], "rope_theta": 10000000.0,
    "pad_token_id": 0, "attention_dropout": 0.0, "attention_bias": False, "mlp_bias": False,
}  # fmt: skip

MODELS = (
    TinyModel("granite", 151, {  # as Granite 3.3 2B
        **_GRANITE, "hidden_size": 96, "intermediate_size": 150, "num_hidden_layers": 3, "num_attention_heads": 6,
        "num_key_value_heads": 2, "tie_word_embeddings": True, "embedding_multiplier": 12.0,
        "residual_multiplier": 0.22, "attention_multiplier": 0.09, "logits_scaling": 2.5,
    }, gguf=True),
    TinyModel("granite_bias", 152, {
        **_GRANITE, "hidden_size": 160, "intermediate_size": 112, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True,
        "rms_norm_eps": 0.01, "embedding_multiplier": 3, "residual_multiplier": 1.7, "attention_multiplier": 0.15,
        "logits_scaling": 0.8,
    }, gguf=True),
)  # fmt: skip
