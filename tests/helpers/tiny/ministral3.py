"""Ministral 3."""

from __future__ import annotations

from typing import Any

from tests.helpers.tiny import llama
from tests.helpers.tiny.model import FAMILIES, Family, TinyModel


def _metadata(writer: Any, model: TinyModel) -> None:
    import gguf

    rope = model.config["rope_parameters"]
    llama.sizes(writer, model)
    writer.add_layer_norm_rms_eps(model.config["rms_norm_eps"])
    llama.head_sizes(writer, model)
    llama.rotation(writer, model)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(rope["factor"])
    writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    writer.add_rope_scaling_yarn_beta_fast(rope["beta_fast"])
    writer.add_rope_scaling_yarn_beta_slow(rope["beta_slow"])
    writer.add_rope_scaling_yarn_log_mul(rope["mscale_all_dim"])
    writer.add_attn_temperature_scale(rope["llama_4_scaling_beta"])


FAMILIES["ministral3"] = Family(
    shapes=llama.plain_shapes,
    gguf_names=llama.GGUF_NAMES,
    metadata=_metadata,
    convert=llama.interleaved,
    architecture="mistral3",
)

_ROPE: dict[str, Any] = {
    "beta_fast": 32.0, "beta_slow": 1.0, "factor": 4.0, "llama_4_scaling_beta": 0.1, "mscale": 1.0,
    "mscale_all_dim": 1.0, "original_max_position_embeddings": 128, "rope_theta": 1000000.0, "rope_type": "yarn",
    "type": "yarn",
}  # fmt: skip
_MINISTRAL3: dict[str, Any] = {
    **{key: value for key, value in llama.LLAMA.items() if key != "rope_theta"}, "model_type": "ministral3",
    "architectures": ["Ministral3ForCausalLM"], "max_position_embeddings": 512, "sliding_window": None,
    "attention_dropout": 0.0, "pad_token_id": 0,
}  # fmt: skip

MODELS = (
    TinyModel("ministral3", 155, {
        **_MINISTRAL3, "hidden_size": 96, "intermediate_size": 150, "num_hidden_layers": 3, "num_attention_heads": 6,
        "num_key_value_heads": 2, "head_dim": 24, "tie_word_embeddings": True, "rope_parameters": _ROPE,
    }, gguf=True),
    TinyModel("ministral3_magnitude", 156, {  # rotated vectors are longer or shorter
        **_MINISTRAL3, "hidden_size": 80, "intermediate_size": 112, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 40, "tie_word_embeddings": False,
        "rope_parameters": {
            **_ROPE, "mscale": 2.0, "mscale_all_dim": 0.5, "rope_theta": 500.0, "max_position_embeddings": 512,
        },
    }),
    TinyModel("mistral3_ministral3", 157, {
        "model_type": "mistral3", "architectures": ["Mistral3ForConditionalGeneration"], "image_token_index": 10,
        "projector_hidden_act": "gelu", "vision_feature_layer": -1, "multimodal_projector_bias": False,
        "spatial_merge_size": 2, "tie_word_embeddings": False,
        "text_config": {
            **_MINISTRAL3, "hidden_size": 72, "intermediate_size": 100, "num_hidden_layers": 2,
            "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 20, "tie_word_embeddings": False,
            "rope_parameters": _ROPE,
        },
        "vision_config": {
            "model_type": "pixtral", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
            "num_attention_heads": 2, "image_size": 28, "patch_size": 14, "head_dim": 8,
        },
    }, prefix="language_model."),
)  # fmt: skip
