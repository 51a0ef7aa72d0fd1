"""StableLM."""

from __future__ import annotations

from typing import Any

from tests.helpers.tiny import llama
from tests.helpers.tiny.model import FAMILIES, Family, Shapes, TinyModel


def _shapes(model: TinyModel) -> Shapes:
    vectors = llama.norms(model)
    if model.text.get("use_parallel_residual"):
        del vectors["post_attention_layernorm"]
    qkv = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"] if model.text.get("use_qkv_bias") else []
    return llama.shapes(model, llama.attention(model) | llama.gated(model), vectors, [*qkv, *vectors])


def _metadata(writer: Any, model: TinyModel) -> None:
    llama.sizes(writer, model)
    writer.add_layer_norm_eps(model.config["layer_norm_eps"])
    writer.add_parallel_residual(model.config["use_parallel_residual"])
    writer.add_rope_freq_base(model.config["rope_theta"])
    llama.head_sizes(writer, model)
    llama.rotation(writer, model)


FAMILIES["stablelm"] = Family(shapes=_shapes, gguf_names=llama.GGUF_NAMES, metadata=_metadata)

_STABLELM: dict[str, Any] = {
    **{key: value for key, value in llama.LLAMA.items() if not key.startswith(("rms", "attention", "mlp"))},
    "model_type": "stablelm", "architectures": ["StableLmForCausalLM"], "layer_norm_eps": 1e-5, "qk_layernorm": False,
    "hidden_dropout": 0.0, "attention_dropout": 0.0, "tie_word_embeddings": False,
}  # fmt: skip

MODELS = (
    TinyModel("stablelm", 67, {
        **_STABLELM, "hidden_size": 96, "intermediate_size": 176, "num_hidden_layers": 3, "num_attention_heads": 6,
        "num_key_value_heads": 2, "use_qkv_bias": True, "partial_rotary_factor": 0.25,
        "use_parallel_residual": False,
    }, gguf=True),
    TinyModel("stablelm_parallel", 68, {
        **_STABLELM, "hidden_size": 160, "intermediate_size": 130, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 2, "use_qkv_bias": False, "partial_rotary_factor": 0.5,
        "use_parallel_residual": True, "layer_norm_eps": 1e-3,
    }, gguf=True),
)  # fmt: skip
