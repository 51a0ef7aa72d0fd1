"""Text models inside of models that also read images: Qwen 2.5 VL, Qwen 3 VL, Mistral 3 and LLaVA."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.helpers.tiny import qwen  # noqa: F401  # its families are renamed here
from tests.helpers.tiny.model import FAMILIES, VOCAB, Shapes, TinyModel

__all__ = ["MODELS"]

_BODY, _INNER = "model.", "model.language_model."


def _inside(model: TinyModel) -> Shapes:
    """The weights of Qwen 3, under the names that Qwen 3 VL has for them."""
    for name, shape in FAMILIES["qwen3"].shapes(model):
        yield name.replace(_BODY, _INNER, 1) if name.startswith(_BODY) else name, shape


FAMILIES["qwen2_5_vl"] = replace(FAMILIES["qwen2"], architecture="qwen2vl")
FAMILIES["qwen3_vl_text"] = replace(
    FAMILIES["qwen3"],
    shapes=_inside,
    layers=f"{_INNER}layers.",
    embedding=f"{_INNER}embed_tokens",
    final_norm=f"{_INNER}norm",
)

_QWEN: dict[str, Any] = {
    "vocab_size": VOCAB, "rms_norm_eps": 1e-6, "hidden_act": "silu", "max_position_embeddings": 256,
    "rope_theta": 1000000.0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_IMAGES: dict[str, Any] = {
    "image_token_id": 300, "video_token_id": 301, "vision_start_token_id": 302, "vision_end_token_id": 303,
}  # fmt: skip
_TOWER: dict[str, Any] = {
    "model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "image_size": 28, "patch_size": 14, "vision_use_head": False,
}  # fmt: skip
_PIXTRAL: dict[str, Any] = {
    "model_type": "pixtral", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "image_size": 28, "patch_size": 14, "head_dim": 8,
}  # fmt: skip

MODELS = (
    TinyModel("qwen2_5_vl", 141, {  # keys at the top level, as the published folders have them; M-RoPE
        **_QWEN, **_IMAGES, "model_type": "qwen2_5_vl", "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "hidden_size": 96, "intermediate_size": 150, "num_hidden_layers": 3, "num_attention_heads": 6,
        "num_key_value_heads": 2, "tie_word_embeddings": False, "use_sliding_window": False, "sliding_window": 17,
        "max_window_layers": 3, "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "vision_config": {
            "model_type": "qwen2_5_vl", "depth": 1, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2,
            "out_hidden_size": 96, "patch_size": 14, "fullatt_block_indexes": [0],
        },
    }, gguf=True),
    TinyModel("qwen3_vl", 142, {  # text_config; the axes of M-RoPE interleaved
        **_IMAGES, "model_type": "qwen3_vl", "architectures": ["Qwen3VLForConditionalGeneration"],
        "tie_word_embeddings": True,
        "text_config": {
            **_QWEN, "model_type": "qwen3_vl_text", "hidden_size": 72, "intermediate_size": 112,
            "num_hidden_layers": 3, "num_attention_heads": 5, "num_key_value_heads": 1, "head_dim": 20,
            "attention_bias": False, "tie_word_embeddings": True,
            "rope_scaling": {"mrope_interleaved": True, "mrope_section": [4, 3, 3], "rope_type": "default"},
        },
        "vision_config": {
            "model_type": "qwen3_vl", "depth": 1, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2,
            "out_hidden_size": 72, "patch_size": 14, "num_position_embeddings": 16, "deepstack_visual_indexes": [0],
        },
    }),
    TinyModel("mistral3", 143, {
        "model_type": "mistral3", "architectures": ["Mistral3ForConditionalGeneration"], "image_token_index": 10,
        "projector_hidden_act": "gelu", "vision_feature_layer": -1, "multimodal_projector_bias": False,
        "spatial_merge_size": 2, "tie_word_embeddings": False,
        "text_config": {
            **_QWEN, "model_type": "mistral", "hidden_size": 80, "intermediate_size": 130, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "sliding_window": None,
            "tie_word_embeddings": False,
        },
        "vision_config": _PIXTRAL,
    }, prefix="language_model."),
    TinyModel("llava", 144, {
        "model_type": "llava", "architectures": ["LlavaForConditionalGeneration"], "image_token_index": 300,
        "projector_hidden_act": "gelu", "vision_feature_layer": -2, "vision_feature_select_strategy": "default",
        "image_seq_length": 4, "ignore_index": -100, "vocab_size": VOCAB, "tie_word_embeddings": False,
        "text_config": {
            "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": VOCAB, "rms_norm_eps": 1e-5,
            "max_position_embeddings": 256, "hidden_size": 72, "intermediate_size": 100, "num_hidden_layers": 2,
            "num_attention_heads": 6, "num_key_value_heads": 3, "tie_word_embeddings": False,
        },
        "vision_config": _TOWER,
    }, prefix="language_model."),
)  # fmt: skip
