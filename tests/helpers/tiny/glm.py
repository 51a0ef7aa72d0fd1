"""GLM and GLM-4."""

from __future__ import annotations

from typing import Any

from tests.helpers.tiny import llama
from tests.helpers.tiny.model import FAMILIES, Family, Shapes, TinyModel

_POST_NORMS = ("post_self_attn_layernorm", "post_mlp_layernorm")


def _shapes(model: TinyModel) -> Shapes:
    width, inner = model.text["hidden_size"], model.text["intermediate_size"]
    attention = llama.attention(model)
    matrices = {**attention, "mlp.gate_up_proj": (2 * inner, width), "mlp.down_proj": (width, inner)}
    biased = [name for name in attention if model.text["attention_bias"] and name != "self_attn.o_proj"]
    post_norms = _POST_NORMS if model.text["model_type"] == "glm4" else ()
    return llama.shapes(model, matrices, llama.norms(model, *post_norms), biased)


_GGUF_NAMES = {
    **llama.GGUF_NAMES, "mlp.gate_up_proj": "ffn_up", "post_self_attn_layernorm": "post_attention_norm",
    "post_mlp_layernorm": "post_ffw_norm",
}  # fmt: skip
FAMILIES["glm"] = Family(shapes=_shapes, gguf_names=_GGUF_NAMES, metadata=llama.metadata, architecture="chatglm")
FAMILIES["glm4"] = Family(shapes=_shapes, gguf_names=_GGUF_NAMES, metadata=llama.metadata)

_GLM: dict[str, Any] = {
    **llama.LLAMA, "model_type": "glm", "architectures": ["GlmForCausalLM"], "rms_norm_eps": 1.5625e-07,
    "partial_rotary_factor": 0.5, "attention_dropout": 0.0, "pad_token_id": 0, "attention_bias": True,
}  # fmt: skip
_GLM4 = {**_GLM, "model_type": "glm4", "architectures": ["Glm4ForCausalLM"]}

MODELS = (
    TinyModel("glm", 111, {
        **_GLM, "hidden_size": 96, "intermediate_size": 150, "num_hidden_layers": 3, "num_attention_heads": 6,
        "num_key_value_heads": 2, "head_dim": 20, "tie_word_embeddings": False, "partial_rotary_factor": 0.6,
    }, gguf=True),
    TinyModel("glm4", 112, {
        **_GLM4, "hidden_size": 96, "intermediate_size": 150, "num_hidden_layers": 3, "num_attention_heads": 6,
        "num_key_value_heads": 2, "head_dim": 24, "tie_word_embeddings": False,
    }, gguf=True),
    TinyModel("glm4_head80", 113, {
        **_GLM4, "hidden_size": 160, "intermediate_size": 112, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 80, "tie_word_embeddings": True, "attention_bias": False,
        "rms_norm_eps": 1e-3,
    }, gguf=True),
)  # fmt: skip
