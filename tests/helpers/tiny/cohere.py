"""Cohere and Cohere 2."""

from __future__ import annotations

from typing import Any

from tests.helpers.tiny import llama
from tests.helpers.tiny.model import FAMILIES, VOCAB, Family, Shapes, TinyModel


def _shapes(model: TinyModel) -> Shapes:
    matrices, width = llama.attention(model) | llama.gated(model), model.text["hidden_size"]
    return llama.shapes(model, matrices, {"input_layernorm": width}, llama.biased(model, matrices))


def _metadata(writer: Any, model: TinyModel) -> None:
    import gguf

    c = model.config
    llama.sizes(writer, model)
    writer.add_layer_norm_eps(c["layer_norm_eps"])
    writer.add_rope_freq_base(c["rope_theta"])
    writer.add_logit_scale(c["logit_scale"])
    writer.add_rope_scaling_type(gguf.RopeScalingType.NONE)
    llama.rotation(writer, model)


def _metadata2(writer: Any, model: TinyModel) -> None:
    """Without the pattern of the windows, as llama.cpp's converter writes it."""
    _metadata(writer, model)
    writer.add_sliding_window(model.config["sliding_window"])


FAMILIES["cohere"] = Family(
    shapes=_shapes, gguf_names=llama.GGUF_NAMES, metadata=_metadata, architecture="command-r", tied=True
)
FAMILIES["cohere2"] = Family(shapes=_shapes, gguf_names=llama.GGUF_NAMES, metadata=_metadata2, tied=True)

_COHERE: dict[str, Any] = {
    "model_type": "cohere", "architectures": ["CohereForCausalLM"], "vocab_size": VOCAB, "layer_norm_eps": 1e-5,
    "hidden_act": "silu", "max_position_embeddings": 256, "rope_theta": 10000.0, "bos_token_id": 0, "eos_token_id": 0,
    "pad_token_id": 0, "attention_bias": False, "attention_dropout": 0.0,
}  # fmt: skip
_COHERE2 = {**_COHERE, "model_type": "cohere2", "architectures": ["Cohere2ForCausalLM"], "rope_theta": 50000.0}

MODELS = (
    TinyModel("cohere", 121, {  # as Aya Expanse
        **_COHERE, "hidden_size": 96, "intermediate_size": 150, "num_hidden_layers": 3, "num_attention_heads": 6,
        "num_key_value_heads": 2, "logit_scale": 0.75, "use_qk_norm": False,
    }, gguf=True),
    TinyModel("cohere_bias", 122, {
        **_COHERE, "hidden_size": 160, "intermediate_size": 112, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "logit_scale": 1.3, "attention_bias": True, "tie_word_embeddings": False,
        "layer_norm_eps": 1e-3,
    }),
    TinyModel("cohere2", 123, {  # as Command R7B
        **_COHERE2, "hidden_size": 96, "intermediate_size": 150, "num_hidden_layers": 5, "num_attention_heads": 6,
        "num_key_value_heads": 2, "logit_scale": 0.7, "sliding_window": 19, "sliding_window_pattern": 4,
        "rotary_pct": 1.0, "position_embedding_type": "rope_gptj", "use_parallel_block": True,
    }, gguf=True),
    TinyModel("cohere2_types", 124, {  # keys as transformers 5 writes them
        **_COHERE2, "hidden_size": 160, "intermediate_size": 112, "num_hidden_layers": 3, "num_attention_heads": 2,
        "num_key_value_heads": 1, "logit_scale": 1.0, "sliding_window": 13,
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
    }),
)  # fmt: skip
