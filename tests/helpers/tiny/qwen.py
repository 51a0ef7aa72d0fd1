"""Qwen 2 and 3, and YaRN."""

from __future__ import annotations

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


FAMILIES["qwen2"] = Family(shapes=_qwen2, gguf_names=llama.GGUF_NAMES, metadata=llama.metadata)
FAMILIES["qwen3"] = Family(shapes=_qwen3, gguf_names=llama.GGUF_NAMES, metadata=llama.metadata)

_QWEN2 = {**llama.LLAMA, "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "rms_norm_eps": 1e-6}
_QWEN3 = {**_QWEN2, "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}

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
