"""OLMo 2, OLMo 3 and OLMoE."""

from __future__ import annotations

from typing import Any

from tests.helpers.tiny import llama
from tests.helpers.tiny.model import FAMILIES, Family, Shapes, TinyModel


def _qk_norms(model: TinyModel) -> dict[str, int]:
    c, width = model.text, llama.head_dim(model)
    return {
        "self_attn.q_norm": c["num_attention_heads"] * width,
        "self_attn.k_norm": c["num_key_value_heads"] * width,
    }


def _shapes(model: TinyModel) -> Shapes:
    vectors = dict.fromkeys(("post_attention_layernorm", "post_feedforward_layernorm"), model.text["hidden_size"])
    matrices = llama.attention(model) | llama.gated(model)
    return llama.shapes(model, matrices, vectors | _qk_norms(model), llama.biased(model, matrices))


def _metadata(writer: Any, model: TinyModel) -> None:
    """Windows as llama.cpp's converter writes them: a flag for each layer."""
    c = model.config
    llama.metadata(writer, model)
    if c.get("sliding_window"):
        writer.add_sliding_window(c["sliding_window"])
        writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in c["layer_types"]])


def _moe_shapes(model: TinyModel) -> Shapes:
    c = model.text
    width, inner = c["hidden_size"], c["intermediate_size"]
    matrices: dict[str, tuple[int, int]] = {**llama.attention(model), "mlp.gate": (c["num_experts"], width)}
    for expert in range(c["num_experts"]):
        for name, shape in (("gate", (inner, width)), ("up", (inner, width)), ("down", (width, inner))):
            matrices[f"mlp.experts.{expert}.{name}_proj"] = shape
    return llama.shapes(model, matrices, llama.norms(model) | _qk_norms(model))


def _moe_metadata(writer: Any, model: TinyModel) -> None:
    llama.metadata(writer, model)
    writer.add_expert_count(model.config["num_experts"])
    writer.add_expert_used_count(model.config["num_experts_per_tok"])


_NAMES = {
    **llama.GGUF_NAMES, "post_attention_layernorm": "post_attention_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}  # fmt: skip
FAMILIES["olmo2"] = Family(shapes=_shapes, gguf_names=_NAMES, metadata=_metadata)
FAMILIES["olmo3"] = Family(shapes=_shapes, gguf_names=_NAMES, metadata=_metadata, architecture="olmo2")
FAMILIES["olmoe"] = Family(
    shapes=_moe_shapes,
    gguf_names={
        **llama.GGUF_NAMES, "mlp.gate": "ffn_gate_inp", "gate_proj": "ffn_gate_exps", "up_proj": "ffn_up_exps",
        "down_proj": "ffn_down_exps",
    },
    metadata=_moe_metadata,
)  # fmt: skip

_OLMO2: dict[str, Any] = {
    **llama.LLAMA, "model_type": "olmo2", "architectures": ["Olmo2ForCausalLM"], "rope_theta": 500000.0,
    "pad_token_id": 0, "attention_dropout": 0.0, "attention_bias": False,
}  # fmt: skip
_OLMO3 = {**_OLMO2, "model_type": "olmo3", "architectures": ["Olmo3ForCausalLM"]}
_OLMOE: dict[str, Any] = {
    **_OLMO2, "model_type": "olmoe", "architectures": ["OlmoeForCausalLM"], "rope_theta": 10000.0, "clip_qkv": None,
    "output_router_logits": False, "router_aux_loss_coef": 0.01, "rope_scaling": None,
}  # fmt: skip

MODELS = (
    TinyModel("olmo2", 161, {  # as OLMo 2 7B
        **_OLMO2, "hidden_size": 96, "intermediate_size": 150, "num_hidden_layers": 3, "num_attention_heads": 6,
        "num_key_value_heads": 6, "tie_word_embeddings": False,
    }, gguf=True),
    TinyModel("olmo2_grouped", 162, {
        **_OLMO2, "hidden_size": 160, "intermediate_size": 112, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 1, "tie_word_embeddings": True, "attention_bias": True, "rms_norm_eps": 1e-3,
    }, gguf=True),
    TinyModel("olmo3", 163, {  # as OLMo 3 7B: YaRN in the layers without a window
        **_OLMO3, "hidden_size": 96, "intermediate_size": 150, "num_hidden_layers": 5, "num_attention_heads": 6,
        "num_key_value_heads": 2, "tie_word_embeddings": False, "sliding_window": 19,
        "layer_types": [*["sliding_attention"] * 3, "full_attention", "sliding_attention"],
        "rope_scaling": {
            "rope_type": "yarn", "factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0,
            "original_max_position_embeddings": 64,
        },
    }, gguf=True),
    TinyModel("olmoe", 164, {
        **_OLMOE, "hidden_size": 96, "intermediate_size": 44, "num_hidden_layers": 3, "num_attention_heads": 6,
        "num_key_value_heads": 6, "num_experts": 9, "num_experts_per_tok": 3, "norm_topk_prob": False,
        "tie_word_embeddings": False,
    }, gguf=True),
    TinyModel("olmoe_normalized", 165, {
        **_OLMOE, "hidden_size": 80, "intermediate_size": 36, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "num_experts": 6, "num_experts_per_tok": 2, "norm_topk_prob": True,
        "tie_word_embeddings": True,
    }),
)  # fmt: skip
