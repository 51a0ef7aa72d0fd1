"""Tiny models: configurations and random weights, as in Hugging Face folders and as in GGUF files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from pyml_core import Tensor
from pyml_nn import decoder
from pyml_nn.layers.rope import LinearScaling
from pyml_nn.models import architecture_of
from pyml_nn.weights.reader import transposed

F32Array = npt.NDArray[np.float32]

GPT2: dict[str, Any] = {
    "model_type": "gpt2", "vocab_size": 61, "n_positions": 200, "n_embd": 30, "n_layer": 2, "n_head": 3, "n_inner": 50,
    "layer_norm_epsilon": 1e-5, "activation_function": "gelu_new",
}  # fmt: skip
LLAMA: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 61, "max_position_embeddings": 200, "hidden_size": 36, "intermediate_size": 50,
    "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 10, "hidden_act": "silu",
    "rms_norm_eps": 1e-5, "rope_theta": 5000.0, "tie_word_embeddings": False,
}  # fmt: skip
LLAMA_BIAS: dict[str, Any] = {
    **LLAMA, "attention_bias": True, "mlp_bias": True, "num_key_value_heads": 6, "tie_word_embeddings": True,
    "rope_scaling": {"rope_type": "linear", "factor": 4.0},
}  # fmt: skip
MISTRAL: dict[str, Any] = {**LLAMA, "model_type": "mistral", "sliding_window": 9}
GEMMA3: dict[str, Any] = {
    "model_type": "gemma3_text", "vocab_size": 61, "max_position_embeddings": 200, "hidden_size": 36,
    "intermediate_size": 50, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 14,
    "hidden_activation": "gelu_pytorch_tanh", "rms_norm_eps": 1e-6, "rope_theta": 1e6, "rope_local_base_freq": 1e4,
    "query_pre_attn_scalar": 14, "sliding_window": 9, "sliding_window_pattern": 3,
}  # fmt: skip
QWEN2: dict[str, Any] = {**LLAMA, "model_type": "qwen2", "tie_word_embeddings": True}
QWEN3: dict[str, Any] = {**LLAMA, "model_type": "qwen3", "attention_bias": True}
QWEN3_MOE: dict[str, Any] = {
    **LLAMA, "model_type": "qwen3_moe", "num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 22,
    "norm_topk_prob": True,
}  # fmt: skip
GEMMA2: dict[str, Any] = {
    "model_type": "gemma2", "vocab_size": 61, "max_position_embeddings": 200, "hidden_size": 36,
    "intermediate_size": 50, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 14,
    "hidden_activation": "gelu_pytorch_tanh", "rms_norm_eps": 1e-6, "rope_theta": 1e4, "query_pre_attn_scalar": 14,
    "sliding_window": 9, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0,
}  # fmt: skip
PHI: dict[str, Any] = {
    **{key: value for key, value in LLAMA.items() if key not in ("rms_norm_eps", "hidden_act")},
    "model_type": "phi", "layer_norm_eps": 1e-5, "hidden_act": "gelu_new", "partial_rotary_factor": 0.4,
}  # fmt: skip
PHI3: dict[str, Any] = {
    **LLAMA, "model_type": "phi3", "partial_rotary_factor": 0.8, "original_max_position_embeddings": 40,
    "sliding_window": 30,
    "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.0, 2.0, 4.0, 8.0]},
}  # fmt: skip
FALCON: dict[str, Any] = {
    "model_type": "falcon", "vocab_size": 61, "max_position_embeddings": 200, "hidden_size": 36, "num_hidden_layers": 2,
    "num_attention_heads": 6, "layer_norm_epsilon": 1e-5, "alibi": False, "bias": False, "multi_query": True,
    "parallel_attn": True, "new_decoder_architecture": False,
}  # fmt: skip
FALCON_NEW: dict[str, Any] = {**FALCON, "new_decoder_architecture": True, "num_kv_heads": 2, "bias": True}
MIXTRAL: dict[str, Any] = {
    **LLAMA, "model_type": "mixtral", "num_local_experts": 5, "num_experts_per_tok": 2, "router_jitter_noise": 0.0,
}  # fmt: skip
STABLELM: dict[str, Any] = {
    "model_type": "stablelm", "vocab_size": 61, "max_position_embeddings": 200, "hidden_size": 36,
    "intermediate_size": 50, "num_hidden_layers": 2, "num_attention_heads": 3, "num_key_value_heads": 1,
    "layer_norm_eps": 1e-5, "rope_theta": 5000.0, "use_qkv_bias": True, "partial_rotary_factor": 0.5,
}  # fmt: skip
SMOLLM3: dict[str, Any] = {**LLAMA, "model_type": "smollm3", "num_hidden_layers": 4}
ERNIE: dict[str, Any] = {**LLAMA, "model_type": "ernie4_5", "use_bias": True}
STARCODER2: dict[str, Any] = {
    **{key: value for key, value in LLAMA.items() if key not in ("rms_norm_eps", "head_dim")},
    "model_type": "starcoder2", "norm_epsilon": 1e-5, "hidden_act": "gelu_pytorch_tanh", "use_bias": True,
    "sliding_window": 9,
}  # fmt: skip
GPT_NEOX: dict[str, Any] = {
    "model_type": "gpt_neox", "vocab_size": 61, "max_position_embeddings": 200, "hidden_size": 36,
    "intermediate_size": 50, "num_hidden_layers": 2, "num_attention_heads": 3, "layer_norm_eps": 1e-5,
    "rotary_pct": 0.5, "hidden_act": "gelu",
}  # fmt: skip
COHERE: dict[str, Any] = {
    **{key: value for key, value in LLAMA.items() if key != "rms_norm_eps"},
    "model_type": "cohere", "layer_norm_eps": 1e-5, "logit_scale": 0.4,
}  # fmt: skip
COHERE2: dict[str, Any] = {
    **COHERE, "model_type": "cohere2", "num_hidden_layers": 4, "sliding_window": 9, "attention_bias": True,
}  # fmt: skip
EXAONE4: dict[str, Any] = {**LLAMA, "model_type": "exaone4", "num_hidden_layers": 4, "sliding_window": 9}
MINISTRAL3: dict[str, Any] = {
    **LLAMA, "model_type": "ministral3",
    "rope_scaling": {
        "rope_type": "yarn", "type": "yarn", "factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0,
        "mscale": 1.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 200, "llama_4_scaling_beta": 0.1,
    },
}  # fmt: skip
OLMO2: dict[str, Any] = {**LLAMA, "model_type": "olmo2"}
OLMO3: dict[str, Any] = {
    **LLAMA, "model_type": "olmo3", "num_hidden_layers": 4, "sliding_window": 9,
    "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 50},
}  # fmt: skip
OLMOE: dict[str, Any] = {**LLAMA, "model_type": "olmoe", "num_experts": 5, "num_experts_per_tok": 2}
GRANITE: dict[str, Any] = {
    **LLAMA, "model_type": "granite", "embedding_multiplier": 6.0, "residual_multiplier": 0.3,
    "attention_multiplier": 0.2, "logits_scaling": 1.5, "mlp_bias": True,
}  # fmt: skip
HELIUM: dict[str, Any] = {**LLAMA, "model_type": "helium", "attention_bias": True}
GLM: dict[str, Any] = {**LLAMA, "model_type": "glm", "head_dim": 10, "partial_rotary_factor": 0.4}
GLM4: dict[str, Any] = {**GLM, "model_type": "glm4"}
STABLELM_PARALLEL: dict[str, Any] = {**STABLELM, "use_parallel_residual": True, "use_qkv_bias": False}
CONFIGS = {
    "gpt2": GPT2, "llama": LLAMA, "llama_bias": LLAMA_BIAS, "mistral": MISTRAL, "gemma2": GEMMA2, "gemma3": GEMMA3,
    "qwen2": QWEN2, "qwen3": QWEN3, "qwen3_moe": QWEN3_MOE, "phi3": PHI3, "falcon": FALCON, "falcon_new": FALCON_NEW,
    "mixtral": MIXTRAL, "smollm3": SMOLLM3, "ernie4_5": ERNIE, "starcoder2": STARCODER2, "gpt_neox": GPT_NEOX,
    "glm": GLM, "glm4": GLM4, "cohere": COHERE, "cohere2": COHERE2, "exaone4": EXAONE4,
    "helium": HELIUM, "granite": GRANITE, "phi": PHI, "ministral3": MINISTRAL3, "olmo2": OLMO2, "olmo3": OLMO3,
    "olmoe": OLMOE,
    "stablelm": STABLELM, "stablelm_parallel": STABLELM_PARALLEL,
}  # fmt: skip


def random_weights(values: dict[str, Any], seed: int = 0) -> dict[str, F32Array]:
    """Random weights for a configuration, by their names in checkpoints."""
    module = architecture_of(values, "config.json")
    rng = np.random.default_rng(seed)
    weights = {}
    for spec in module.Model.specs(module.Config.from_hf(values)).values():
        if spec.optional or not spec.hf:
            continue
        shape = spec.shape[::-1] if spec.hf_transposed else spec.shape
        weight = rng.standard_normal(shape) * (0.2 if len(shape) == 2 else 0.3)
        if len(shape) == 1 and not spec.hf.endswith("bias") and "gemma" not in module.__name__:
            weight += 1  # a norm
        weights[spec.hf] = weight.astype(np.float32)
    return weights


def make(values: dict[str, Any], **arguments: Any) -> Any:
    """A model of this configuration with random weights, in f32 by default."""
    module = architecture_of(values, "config.json")
    arguments.setdefault("dtype", "f32")
    arguments.setdefault("threads", 1)
    weights = arguments.pop("weights", None) or random_weights(values)
    return module.Model(module.Config.from_hf(values), weights, **arguments)


_LAYER_NORMS = ("gpt2", "falcon", "stablelm", "starcoder2", "gptneox", "command-r", "cohere2", "phi2")
_INTERLEAVED = ("llama", "mistral", "mixtral", "smollm3", "granite", "ministral3")
_OWN_METADATA: dict[str, Callable[[Any, dict[str, Any]], dict[str, Any]]] = {
    "mixtral": lambda config, values: {"expert_count": config.n_experts, "expert_used_count": config.n_chosen},
    "qwen3_moe": lambda config, values: {
        "expert_count": config.n_experts,
        "expert_used_count": config.n_chosen,
        "expert_feed_forward_length": config.expert_size,
    },
    "phi3": lambda config, values: {
        "rope.dimension_count": config.rope.dim,
        "rope.scaling.original_context_length": config.original_context,
        "rope.scaling.attn_factor": config.rope.scaling.magnitude,
    },
    "ministral3": lambda config, values: {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": config.rope.scaling.factor,
        "rope.scaling.original_context_length": config.rope.scaling.original_context,
        "rope.scaling.yarn_log_multiplier": 1.0,
        "attention.temperature_scale": 0.1,
    },
    "olmo3": lambda config, values: {
        "attention.sliding_window": max(config.windows),
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": config.rope.scaling.factor,
        "rope.scaling.original_context_length": config.rope.scaling.original_context,
    },
    "olmoe": lambda config, values: {"expert_count": config.n_experts, "expert_used_count": config.n_chosen},
    "phi": lambda config, values: {"rope.dimension_count": config.rope.dim},
    "stablelm": lambda config, values: {
        "rope.dimension_count": config.rope.dim,
        "use_parallel_residual": config.parallel,
    },
    "gpt_neox": lambda config, values: {
        "rope.dimension_count": config.rope.dim,
        "use_parallel_residual": config.parallel,
    },
    "cohere": lambda config, values: {"logit_scale": config.logit_scale},
    "cohere2": lambda config, values: {
        "attention.sliding_window": max(config.windows),
        "logit_scale": config.logit_scale,
    },
    "granite": lambda config, values: {
        "embedding_scale": config.embedding_factor,
        "residual_scale": config.branch_factor,
        "attention.scale": config.score_factor,
        "logit_scale": config.logit_divisor,
    },
    "exaone4": lambda config, values: {"attention.sliding_window": max(config.windows)},
    "glm": lambda config, values: {"rope.dimension_count": config.rope.dim},
    "glm4": lambda config, values: {"rope.dimension_count": config.rope.dim},
    "gemma2": lambda config, values: {
        "attention.sliding_window": max(config.windows),
        "attn_logit_softcapping": config.score_soft_cap,
        "final_logit_softcapping": config.final_soft_cap,
    },
    "gemma3_text": lambda config, values: {"attention.sliding_window_pattern": values["sliding_window_pattern"]},
}
"""The keys that other families lack, by ``model_type``, from the configuration and its ``config.json``."""


def gguf_metadata(values: dict[str, Any]) -> dict[str, Any]:
    """The metadata of a GGUF file with this configuration."""
    module = architecture_of(values, "config.json")
    config = module.Config.from_hf(values)
    architecture = _gguf_architecture(values)
    eps = "layer_norm_epsilon" if architecture in _LAYER_NORMS else "layer_norm_rms_epsilon"
    metadata = {
        "general.architecture": architecture,
        f"{architecture}.vocab_size": config.vocab_size,
        f"{architecture}.context_length": config.context_length,
        f"{architecture}.embedding_length": config.hidden_size,
        f"{architecture}.feed_forward_length": config.intermediate_size,
        f"{architecture}.block_count": config.n_layers,
        f"{architecture}.attention.head_count": config.n_heads,
        f"{architecture}.attention.{eps}": config.norm_eps,
    }
    if architecture != "gpt2":
        metadata |= {
            f"{architecture}.attention.head_count_kv": config.n_kv_heads,
            f"{architecture}.attention.key_length": config.head_dim,
            f"{architecture}.attention.value_length": config.head_dim,
            f"{architecture}.rope.freq_base": config.rope.theta,
        }
        if isinstance(config.rope.scaling, LinearScaling):
            metadata |= {
                f"{architecture}.rope.scaling.type": "linear",
                f"{architecture}.rope.scaling.factor": config.rope.scaling.factor,
            }
        if getattr(config, "window", 0):
            metadata[f"{architecture}.attention.sliding_window"] = config.window
    own = _OWN_METADATA.get(str(values["model_type"]))
    return metadata | {f"{architecture}.{key}": value for key, value in (own(config, values) if own else {}).items()}


def _gguf_architecture(values: dict[str, Any]) -> str:
    name = str(values["model_type"])
    other = {
        "gemma3_text": "gemma3", "mistral": "llama", "mixtral": "llama", "qwen3_moe": "qwen3moe", "gpt_neox": "gptneox",
        "glm": "chatglm", "cohere": "command-r", "phi": "phi2", "ministral3": "mistral3", "olmo3": "olmo2",
        "helium": "llama",
    }  # fmt: skip
    return other.get(name, name)


def gguf_weights(values: dict[str, Any], weights: dict[str, F32Array]) -> dict[str, F32Array]:
    """These weights as a GGUF file stores them."""
    module = architecture_of(values, "config.json")
    config = module.Config.from_hf(values)
    result: dict[str, F32Array] = {}
    stacks: dict[str, list[F32Array]] = {}
    for name, spec in module.Model.specs(config).items():
        if spec.hf not in weights:
            continue
        weight = weights[spec.hf]
        if spec.hf_transposed:
            weight = transposed(Tensor.from_array(weight)).to_f32()
        if ".attention.qkv." in name and values["model_type"] in ("falcon", "gpt_neox"):
            weight = weight[decoder.by_kind(config.n_heads, config.n_kv_heads, config.head_dim)]
        if "gemma" in values["model_type"] and "norm" in name:
            weight = weight + np.float32(1)
        for part, heads in ((".attention.q.", config.n_heads), (".attention.k.", config.n_kv_heads)):
            if values["model_type"] in _INTERLEAVED and part in name:
                # llama.cpp's convert_hf_to_gguf.py, LlamaModel.permute
                halves = weight.reshape(heads, 2, config.head_dim // 2, *weight.shape[1:])
                weight = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(weight.shape)
        if spec.gguf_index is not None:
            stacks.setdefault(spec.gguf, []).append(weight)
            continue
        result[spec.gguf] = weight
    result |= {name: np.stack(stack) for name, stack in stacks.items()}
    for length in ("short", "long") if values["model_type"] == "phi3" else ():
        factors = values["rope_scaling"][f"{length}_factor"]
        result[f"rope_factors_{length}.weight"] = np.array(factors, np.float32)
    return result
