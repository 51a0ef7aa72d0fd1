"""Qwen 2 and 3, with and without experts, and YaRN."""

from __future__ import annotations

from typing import Any

from tests.helpers.tiny import llama
from tests.helpers.tiny.model import FAMILIES, Family, Shapes, TinyModel


def _qwen2(model: TinyModel) -> Shapes:
    matrices = llama.attention(model) | llama.gated(model)
    biased = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    return llama.shapes(model, matrices, llama.norms(model), biased)


def _qwen3(model: TinyModel) -> Shapes:
    matrices = llama.attention(model) | llama.gated(model)
    vectors = llama.norms(model) | llama.qk_norms(model)
    return llama.shapes(model, matrices, vectors, llama.biased(model, matrices))


def _qwen3_moe(model: TinyModel) -> Shapes:
    c = model.text
    width, inner = c["hidden_size"], c["moe_intermediate_size"]
    matrices: dict[str, tuple[int, int]] = {**llama.attention(model), "mlp.gate": (c["num_experts"], width)}
    for expert in range(c["num_experts"]):
        for name, shape in (("gate", (inner, width)), ("up", (inner, width)), ("down", (width, inner))):
            matrices[f"mlp.experts.{expert}.{name}_proj"] = shape
    dense = llama.gated(model)
    for name, size in llama.shapes(model, matrices | dense, llama.norms(model) | llama.qk_norms(model)):
        layer = int(name.split(".")[2]) if ".layers." in name else None
        sparse = layer is None or (layer + 1) % c.get("decoder_sparse_step", 1) == 0
        if layer in (c.get("mlp_only_layers") or []):
            sparse = False
        if ".mlp." not in name or sparse == (".mlp.gate." in name or ".experts." in name):
            yield name, size


def _qwen3_moe_metadata(writer: Any, model: TinyModel) -> None:
    llama.metadata(writer, model)
    writer.add_expert_count(model.config["num_experts"])
    writer.add_expert_used_count(model.config["num_experts_per_tok"])
    writer.add_expert_feed_forward_length(model.config["moe_intermediate_size"])


FAMILIES["qwen2"] = Family(shapes=_qwen2, gguf_names=llama.GGUF_NAMES, metadata=llama.metadata)
FAMILIES["qwen3"] = Family(shapes=_qwen3, gguf_names=llama.GGUF_NAMES, metadata=llama.metadata)
FAMILIES["qwen3_moe"] = Family(
    shapes=_qwen3_moe,
    gguf_names={
        **llama.GGUF_NAMES, "mlp.gate": "ffn_gate_inp", "gate_proj": "ffn_gate_exps", "up_proj": "ffn_up_exps",
        "down_proj": "ffn_down_exps",
    },
    metadata=_qwen3_moe_metadata,
    architecture="qwen3moe",
)  # fmt: skip

_QWEN2 = {**llama.LLAMA, "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "rms_norm_eps": 1e-6}
_QWEN3 = {**_QWEN2, "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}
_QWEN3_MOE: dict[str, Any] = {
    **_QWEN3, "model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "attention_bias": False,
    "decoder_sparse_step": 1, "mlp_only_layers": [], "output_router_logits": False, "router_aux_loss_coef": 0.001,
    "max_window_layers": 3,
}  # fmt: skip

MODELS = (
    TinyModel("qwen2", 61, {
        **_QWEN2, "hidden_size": 96, "intermediate_size": 150, "num_hidden_layers": 3, "num_attention_heads": 6,
        "num_key_value_heads": 2, "tie_word_embeddings": True, "rope_theta": 1000000.0, "use_sliding_window": False,
        "sliding_window": 17, "max_window_layers": 3,
    }, gguf=True),
    TinyModel("qwen2_window", 62, {  # the upper layers slide; YaRN
        **_QWEN2, "hidden_size": 160, "intermediate_size": 112, "num_hidden_layers": 3, "num_attention_heads": 2,
        "num_key_value_heads": 1, "tie_word_embeddings": False, "use_sliding_window": True, "sliding_window": 19,
        "max_window_layers": 1, "rope_scaling": {"type": "yarn", "factor": 4.0,
                                                 "original_max_position_embeddings": 64},
    }),
    TinyModel("qwen3", 63, {
        **_QWEN3, "hidden_size": 72, "intermediate_size": 112, "num_hidden_layers": 3, "num_attention_heads": 5,
        "num_key_value_heads": 1, "head_dim": 20, "tie_word_embeddings": True, "rope_theta": 1000000.0,
        "attention_bias": False, "use_sliding_window": False, "sliding_window": None, "max_window_layers": 3,
    }, gguf=True),
    TinyModel("qwen3_head80", 64, {  # biases, keys of transformers 5, YaRN with all of its own
        **{key: value for key, value in _QWEN3.items() if key != "rope_theta"},
        "hidden_size": 96, "intermediate_size": 140, "num_hidden_layers": 2, "num_attention_heads": 6,
        "num_key_value_heads": 3, "head_dim": 80, "tie_word_embeddings": False, "attention_bias": True,
        "use_sliding_window": True, "sliding_window": 21, "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {
            "rope_type": "yarn", "rope_theta": 5000.0, "factor": 8.0, "original_max_position_embeddings": 32,
            "beta_fast": 16.0, "beta_slow": 2.0, "truncate": False, "attention_factor": 1.3,
        },
    }),
    TinyModel("qwen3_moe", 93, {
        **_QWEN3_MOE, "hidden_size": 96, "intermediate_size": 150, "num_hidden_layers": 3, "num_attention_heads": 6,
        "num_key_value_heads": 2, "head_dim": 20, "num_experts": 7, "num_experts_per_tok": 3,
        "moe_intermediate_size": 44, "norm_topk_prob": True, "tie_word_embeddings": True,
    }, gguf=True),
    TinyModel("qwen3_moe_mixed", 94, {  # layers without experts, weights that do not add up to 1, a window
        **_QWEN3_MOE, "hidden_size": 80, "intermediate_size": 130, "num_hidden_layers": 4, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 80, "num_experts": 19, "num_experts_per_tok": 4,
        "moe_intermediate_size": 36, "norm_topk_prob": False, "tie_word_embeddings": False, "decoder_sparse_step": 2,
        "mlp_only_layers": [3], "use_sliding_window": True, "sliding_window": 17,
    }),
    TinyModel("yarn", 65, {  # with two coefficients
        **_QWEN2, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "tie_word_embeddings": True, "rope_theta": 20000.0,
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 48, "mscale": 0.7,
                         "mscale_all_dim": 0.4},
    }),
    TinyModel("yarn_gguf", 66, {
        **_QWEN2, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 2, "tie_word_embeddings": True, "rope_theta": 20000.0,
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 48},
    }, gguf=True),
)  # fmt: skip
