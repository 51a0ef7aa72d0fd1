"""Configurations: real ones are understood, bad ones are refused with a message that names the key."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from nn_models import FALCON_NEW, GEMMA3, GPT2, LLAMA, QWEN2, QWEN3, gguf_metadata

from pyml_core.errors import PymlError
from pyml_nn.config import Fields, Key, hf
from pyml_nn.config.hf_file import repeats_built_ins
from pyml_nn.errors import ConfigError, show
from pyml_nn.layers.rope import LinearScaling, Llama3Scaling, LongScaling, Rope, YarnScaling
from pyml_nn.models import (
    ARCHITECTURES,
    GGUF_ARCHITECTURES,
    architecture_of,
    falcon,
    gemma2,
    gemma3,
    gpt2,
    llama,
    mistral,
    mixtral,
    phi3,
    qwen2,
    qwen3,
)

SMOLLM2 = {
    "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 1,
    "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 576, "initializer_range": 0.041666666666666664,
    "intermediate_size": 1536, "is_llama_config": True, "max_position_embeddings": 8192, "model_type": "llama",
    "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3, "pad_token_id": 2, "pretraining_tp": 1,
    "rms_norm_eps": 1e-05, "rope_interleaved": False, "rope_scaling": None, "rope_theta": 100000,
    "tie_word_embeddings": True, "torch_dtype": "bfloat16", "transformers.js_config": {"kv_cache_dtype": {}},
    "transformers_version": "4.42.3", "use_cache": True, "vocab_size": 49152,
}  # fmt: skip
LLAMA_3_2 = {
    "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009], "head_dim": 64, "hidden_act": "silu", "hidden_size": 2048,
    "initializer_range": 0.02, "intermediate_size": 8192, "max_position_embeddings": 131072, "mlp_bias": False,
    "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 16, "num_key_value_heads": 8,
    "pretraining_tp": 1, "rms_norm_eps": 1e-05,
    "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                     "original_max_position_embeddings": 8192, "rope_type": "llama3"},
    "rope_theta": 500000.0, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "transformers_version": "4.45.0",
    "use_cache": True, "vocab_size": 128256,
}  # fmt: skip
MISTRAL_7B = {
    "architectures": ["MistralForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
    "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336, "max_position_embeddings": 32768,
    "model_type": "mistral", "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "sliding_window": 4096, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "transformers_version": "4.34.0", "use_cache": True, "vocab_size": 32000,
}  # fmt: skip
GPT2_HUB = {
    "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1, "bos_token_id": 50256,
    "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02, "layer_norm_epsilon": 1e-05,
    "model_type": "gpt2", "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024,
    "resid_pdrop": 0.1, "summary_activation": None, "summary_first_dropout": 0.1, "summary_proj_to_labels": True,
    "summary_type": "cls_index", "summary_use_proj": True,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}}, "vocab_size": 50257,
}  # fmt: skip
GEMMA_270M = {
    "_sliding_window_pattern": 6, "architectures": ["Gemma3ForCausalLM"], "attention_bias": False,
    "attention_dropout": 0.0, "attn_logit_softcapping": None, "bos_token_id": 2, "eos_token_id": 1,
    "final_logit_softcapping": None, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 640,
    "initializer_range": 0.02, "intermediate_size": 2048,
    "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 3, "max_position_embeddings": 32768,
    "model_type": "gemma3_text", "num_attention_heads": 4, "num_hidden_layers": 18, "num_key_value_heads": 1,
    "pad_token_id": 0, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06, "rope_local_base_freq": 10000.0,
    "rope_scaling": None, "rope_theta": 1000000.0, "sliding_window": 512, "torch_dtype": "bfloat16",
    "transformers_version": "4.55.0.dev0", "use_bidirectional_attention": False, "use_cache": True,
    "vocab_size": 262144,
}  # fmt: skip
MIXTRAL_8X7B = {
    "architectures": ["MixtralForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2,
    "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336,
    "max_position_embeddings": 32768, "model_type": "mixtral", "num_attention_heads": 32, "num_experts_per_tok": 2,
    "num_hidden_layers": 32, "num_key_value_heads": 8, "num_local_experts": 8, "output_router_logits": False,
    "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "router_aux_loss_coef": 0.02, "sliding_window": None,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "transformers_version": "4.36.0.dev0", "use_cache": True,
    "vocab_size": 32000,
}  # fmt: skip
FALCON_7B = {
    "alibi": False, "apply_residual_connection_post_layernorm": False, "architectures": ["FalconForCausalLM"],
    "attention_dropout": 0.0, "bias": False, "bos_token_id": 11, "eos_token_id": 11, "hidden_dropout": 0.0,
    "hidden_size": 4544, "initializer_range": 0.02, "layer_norm_epsilon": 1e-05, "model_type": "falcon",
    "multi_query": True, "new_decoder_architecture": False, "num_attention_heads": 71, "num_hidden_layers": 32,
    "parallel_attn": True, "torch_dtype": "bfloat16", "transformers_version": "4.27.4", "use_cache": True,
    "vocab_size": 65024,
}  # fmt: skip
PHI3_128K: dict[str, Any] = {
    "architectures": ["Phi3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 1,
    "embd_pdrop": 0.0, "eos_token_id": 32000, "hidden_act": "silu", "hidden_size": 3072, "initializer_range": 0.02,
    "intermediate_size": 8192, "max_position_embeddings": 131072, "model_type": "phi3", "num_attention_heads": 32,
    "num_hidden_layers": 32, "num_key_value_heads": 32, "original_max_position_embeddings": 4096, "pad_token_id": 32000,
    "resid_pdrop": 0.0, "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "sliding_window": 262144,
    "rope_scaling": {"long_factor": [4.0] * 48, "short_factor": [1.05] * 48, "type": "longrope"},
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "use_cache": True, "vocab_size": 32064,
}  # fmt: skip
GEMMA2_9B = {
    "architectures": ["Gemma2ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "attn_logit_softcapping": 50.0, "bos_token_id": 2, "cache_implementation": "hybrid", "eos_token_id": 1,
    "final_logit_softcapping": 30.0, "head_dim": 256, "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 3584, "initializer_range": 0.02,
    "intermediate_size": 14336, "max_position_embeddings": 8192, "model_type": "gemma2", "num_attention_heads": 16,
    "num_hidden_layers": 42, "num_key_value_heads": 8, "pad_token_id": 0, "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "sliding_window": 4096, "sliding_window_size": 4096,
    "torch_dtype": "float32", "transformers_version": "4.42.0.dev0", "use_cache": True, "vocab_size": 256000,
}  # fmt: skip
GEMMA_4B = {
    "architectures": ["Gemma3ForConditionalGeneration"], "boi_token_index": 255999, "eoi_token_index": 256000,
    "eos_token_id": [1, 106], "image_token_index": 262144, "initializer_range": 0.02, "mm_tokens_per_image": 256,
    "model_type": "gemma3", "torch_dtype": "bfloat16", "transformers_version": "4.50.0.dev0",
    "text_config": {"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text",
                    "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
                    "sliding_window": 1024},
    "vision_config": {"hidden_size": 1152, "model_type": "siglip_vision_model"},
}  # fmt: skip


# ---- configurations that are understood


def test_smollm2() -> None:
    config = llama.Config.from_hf(SMOLLM2)
    assert (config.n_heads, config.n_kv_heads, config.head_dim, config.n_layers) == (9, 3, 64, 30)
    assert config.rope == Rope(64, 100_000.0)
    assert (config.tie_word_embeddings, config.window, config.attention_bias) == (True, 0, False)


def test_llama_3_scaling_in_both_spellings() -> None:
    config = llama.Config.from_hf(LLAMA_3_2)
    assert config.rope == Rope(64, 500_000.0, Llama3Scaling(32.0, 1.0, 4.0, 8192))
    new = dict(LLAMA_3_2)
    scaling = new.pop("rope_scaling")
    assert isinstance(scaling, dict)
    new["rope_parameters"] = {**scaling, "rope_theta": new.pop("rope_theta")}
    assert llama.Config.from_hf(new) == config
    assert llama.Config.from_hf({**new, "rope_theta": 500000.0, "rope_scaling": scaling}) == config


def test_mistral_window() -> None:
    assert mistral.Config.from_hf(MISTRAL_7B).window == 4096
    assert mistral.Config.from_hf({**MISTRAL_7B, "sliding_window": None}).window == 0
    without = {key: value for key, value in MISTRAL_7B.items() if key != "sliding_window"}
    assert mistral.Config.from_hf(without).window == 4096  # transformers' default


def test_mistral_layers_with_and_without_a_window() -> None:
    """Ministral, which has ``layer_types``."""
    values = {**MISTRAL_7B, "num_hidden_layers": 4, "sliding_window": 9}
    types = ["full_attention", "sliding_attention"] * 2

    def windows(**changes: Any) -> list[int]:
        config = mistral.Config.from_hf({**values, **changes})
        return [config.window_of(layer) for layer in range(4)]

    assert windows() == [9, 9, 9, 9]
    assert windows(layer_types=types) == [0, 9, 0, 9]
    assert windows(layer_types=["full_attention"] * 4) == [0, 0, 0, 0]
    assert windows(layer_types=["full_attention"] * 4, sliding_window=None) == [0, 0, 0, 0]
    with pytest.raises(ConfigError, match=r"layer_types: expected no sliding_attention in a model without a sliding_"):
        windows(layer_types=types, sliding_window=None)
    with pytest.raises(ConfigError, match="layer_types: expected a list of 4 of"):
        windows(layer_types=types[:3])


def test_llama_layer_types() -> None:
    values = {**SMOLLM2, "num_hidden_layers": 2}
    assert llama.Config.from_hf({**values, "layer_types": ["full_attention"] * 2}) == llama.Config.from_hf(values)
    with pytest.raises(ConfigError, match="layer_types: expected no sliding_attention in a Llama model"):
        llama.Config.from_hf({**values, "layer_types": ["full_attention", "sliding_attention"]})


def test_qwen2_windows() -> None:
    values = {**QWEN2, "num_hidden_layers": 4, "sliding_window": 9, "max_window_layers": 3}
    assert qwen2.Config.from_hf(values).windows == (0, 0, 0, 0)
    assert qwen2.Config.from_hf({**values, "use_sliding_window": True}).windows == (0, 0, 0, 9)
    types = ["full_attention", "sliding_attention"] * 2
    used = {**values, "use_sliding_window": True, "layer_types": types}
    assert qwen2.Config.from_hf(used).windows == (0, 9, 0, 9)
    with pytest.raises(ConfigError, match="layer_types: expected no sliding_attention"):
        qwen2.Config.from_hf({**used, "use_sliding_window": False})


def test_qwen3_yarn() -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    rope = qwen3.Config.from_hf({**QWEN3, "head_dim": 128, "rope_theta": 1e6, "rope_scaling": scaling}).rope
    assert rope == Rope(128, 1e6, YarnScaling(4.0, 32768, magnitude=0.1 * math.log(4) + 1))
    metadata = gguf_metadata({**QWEN3, "head_dim": 128, "rope_theta": 1e6}) | {
        "qwen3.rope.scaling.type": "yarn",
        "qwen3.rope.scaling.factor": 4.0,
        "qwen3.rope.scaling.original_context_length": 32768,
    }
    assert qwen3.Config.from_gguf(metadata).rope == rope


def test_mixtral() -> None:
    config = mixtral.Config.from_hf(MIXTRAL_8X7B)
    assert (config.n_experts, config.n_chosen, config.window, config.rope) == (8, 2, 0, Rope(128, 1e6))
    assert architecture_of({"general.architecture": "llama", "llama.expert_count": 8}, "m.gguf") is mixtral
    for count in (0, None, "8", np.zeros(2)):
        assert architecture_of({"general.architecture": "llama", "llama.expert_count": count}, "m.gguf") is llama
    for change, message in (
        ({"num_experts_per_tok": 9}, "experts: 9 are chosen of 8"),
        ({"num_experts_per_tok": 0}, "num_experts_per_tok: expected an integer from 1 to 1024, found 0"),
        ({"num_local_experts": 1025}, "num_local_experts: .* found 1025"),
        ({"shared_expert_intermediate_size": 8}, "shared_expert_intermediate_size: unknown key"),
    ):
        with pytest.raises(ConfigError, match=message):
            mixtral.Config.from_hf({**MIXTRAL_8X7B, **change})


def test_falcon() -> None:
    config = falcon.Config.from_hf(FALCON_7B)
    assert (config.n_kv_heads, config.head_dim, config.intermediate_size) == (1, 64, 18176)
    assert (config.context_length, config.tie_word_embeddings, config.activation) == (2048, True, "gelu_erf")
    assert (config.parallel, config.two_norms) == (True, False)
    new = falcon.Config.from_hf(FALCON_NEW)
    assert (new.n_kv_heads, new.two_norms, new.bias) == (2, True, True)
    assert falcon.Config.from_hf({**FALCON_NEW, "num_ln_in_parallel_attn": 1}).two_norms is False


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alibi": True}, "alibi: expected false or null"),
        ({"num_attention_heads": 70}, "num_attention_heads: 70 does not divide hidden_size"),
        ({"num_ln_in_parallel_attn": 2}, "num_ln_in_parallel_attn: expected an integer from 1 to 1, found 2"),
        (
            {"new_decoder_architecture": True, "parallel_attn": False},
            "parallel_attn: expected true with new",
        ),
        (
            {"apply_residual_connection_post_layernorm": True},
            "post_layernorm: expected false",
        ),
        ({"activation": "relu"}, "activation: expected one of gelu, .* found 'relu'"),
        ({"n_layer": 32}, "n_layer: unknown key"),
    ],
)
def test_bad_falcon_config(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        falcon.Config.from_hf({**FALCON_7B, **change})


@pytest.mark.parametrize(
    ("kind", "classes", "fine"),
    [
        ("phi3", {"AutoConfig": "configuration_phi3.Phi3Config", "AutoModel": "modeling_phi3.Phi3ForCausalLM"}, True),
        ("falcon", {"AutoModel": "modeling_falcon.FalconModel"}, True),
        ("phi3", {"AutoConfig": "configuration_phi3.Phi3SmallConfig"}, False),
        ("phi3", {"AutoConfig": "configuration_falcon.FalconConfig"}, False),
        ("phi3", {"AutoModel": "evil--modeling_phi3.Phi3Model"}, False),
        ("phi3", {"AutoConfig": "configuration_phi3.Phi3Config", "AutoTokenizer": "Xenova/gpt-4o"}, True),
        ("phi3", {"AutoModel": "Xenova/gpt-4o"}, False),
        ("phi3", {"AutoTokenizer": "Xenova/gpt--tokenization_phi3.Phi3Tokenizer"}, False),
        ("phi3", {"AutoTokenizer": ["tokenization_phi3.Phi3Tokenizer", None]}, False),
        ("phi3", "modeling_phi3.Phi3Model", False),
        ("llama", {"AutoConfig": "configuration_llama.LlamaConfig"}, False),
    ],
)  # fmt: skip
def test_code_that_transformers_has_built_in(kind: str, classes: Any, fine: bool) -> None:
    assert repeats_built_ins({"model_type": kind, "auto_map": classes}) == fine
    if kind != "phi3":
        return
    values = {**PHI3_128K, "auto_map": classes}
    if fine:
        assert phi3.Config.from_hf(values) == phi3.Config.from_hf(PHI3_128K)
    else:
        with pytest.raises(ConfigError, match="auto_map: refused"):
            phi3.Config.from_hf(values)


def test_phi3() -> None:
    config = phi3.Config.from_hf(PHI3_128K)
    assert config.rope == Rope(96, 10_000.0, LongScaling((1.05,) * 48, (4.0,) * 48, 4096, math.sqrt(1 + 5 / 12)))
    assert (config.long_from, config.window) == (4096, 262144)
    old = {**PHI3_128K, "rope_scaling": {**PHI3_128K["rope_scaling"], "type": "su"}}
    assert phi3.Config.from_hf(old) == config
    short = {**PHI3_128K, "max_position_embeddings": 4096, "rope_scaling": None, "sliding_window": 2047}
    assert phi3.Config.from_hf(short).long_from is None
    assert phi3.Config.from_hf({**short, "partial_rotary_factor": 0.75}).rope == Rope(72, 10_000.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"short_factor": [1.0] * 47},
            "short_factor: expected a list of 48 numbers .*, found one of 47",
        ),
        ({"long_factor": [1.0] * 47 + [0]}, "long_factor: expected a list of 48 .*, found 0 in it"),
        ({"long_factor": [1.0] * 47 + ["1"]}, "long_factor: expected a list of 48 .*, found '1' in it"),
        ({"long_factor": None}, "long_factor: expected a list of 48 .*, found null"),
        ({"long_mscale": 1.2}, "long_mscale: unknown key"),
        ({"type": "llama3"}, "type: expected one of default, longrope, su, yarn, found 'llama3'"),
        ({"original_max_position_embeddings": 2048}, "expected 4096 as outside of it, found 2048"),
    ],
)
def test_bad_longrope(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        phi3.Config.from_hf({**PHI3_128K, "rope_scaling": {**PHI3_128K["rope_scaling"], **change}})


def test_gpt2() -> None:
    config = gpt2.Config.from_hf(GPT2_HUB)
    assert (config.head_dim, config.intermediate_size, config.tie_word_embeddings) == (64, 3072, True)
    assert config.activation == "gelu_tanh"


def test_gemma3_in_old_and_new_spelling() -> None:
    config = gemma3.Config.from_hf(GEMMA_270M)
    assert [layer for layer, sliding in enumerate(config.sliding) if not sliding] == [5, 11, 17]
    assert (config.rope, config.local_rope) == (Rope(256, 1e6), Rope(256, 1e4))
    assert (config.window, config.query_scale, config.final_soft_cap) == (512, 1 / 16, 0.0)
    oldest = {key: value for key, value in GEMMA_270M.items() if key not in ("layer_types", "_sliding_window_pattern")}
    assert gemma3.Config.from_hf({**oldest, "sliding_window_pattern": 6}) == config
    new = {key: value for key, value in GEMMA_270M.items() if not key.startswith("rope_")}
    new["rope_parameters"] = {
        "full_attention": {"rope_theta": 1000000.0, "rope_type": "default"},
        "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
    }
    assert gemma3.Config.from_hf(new) == config


def test_gemma3_nested_text_config_takes_the_defaults_of_transformers() -> None:
    config = gemma3.Config.from_hf(GEMMA_4B)
    assert (config.n_heads, config.n_kv_heads, config.head_dim, config.vocab_size) == (8, 4, 256, 262_208)
    assert config.rope == Rope(256, 1e6, LinearScaling(8.0))
    assert config.local_rope == Rope(256, 1e4)  # scaling is for global layers only
    assert config.sliding == tuple((layer + 1) % 6 != 0 for layer in range(34))


def test_gemma2() -> None:
    config = gemma2.Config.from_hf(GEMMA2_9B)
    assert config.windows == (4096, 0) * 21
    assert (config.query_scale, config.score_soft_cap, config.final_soft_cap) == (1 / 16, 50.0, 30.0)
    assert gemma2.Config.from_hf({**GEMMA2_9B, "attn_logit_softcapping": None}).score_soft_cap == 0.0
    without = {key: value for key, value in GEMMA2_9B.items() if not key.endswith("softcapping")}
    assert gemma2.Config.from_hf(without) == config  # transformers' defaults
    with pytest.raises(ConfigError, match="sliding_window_size: expected 4096 or null"):
        gemma2.Config.from_hf({**GEMMA2_9B, "sliding_window_size": 512})


def test_architectures() -> None:
    assert architecture_of({"model_type": "mistral"}, "config.json") is mistral
    assert architecture_of({"general.architecture": "gemma3", "model_type": 3}, "m.gguf") is gemma3
    for name in (None, "bert", 7, ["llama"]):
        with pytest.raises(ConfigError, match=r"model_type: expected one of gpt2, "):
            architecture_of({"model_type": name}, "config.json")
    for name in ("mistral", "gemma3_text", "bert", None):
        with pytest.raises(ConfigError, match=r"general\.architecture: expected one of gpt2, "):
            architecture_of({"general.architecture": name}, "m.gguf")
    for module in {*ARCHITECTURES.values(), *GGUF_ARCHITECTURES.values()}:
        assert callable(module.Config.from_hf)
        assert callable(module.Config.from_gguf)
        assert callable(module.Model.specs)


# ---- configurations that are refused: (change, pattern of the message)

MISSING = object()
BAD_LLAMA: list[tuple[dict[str, Any], str]] = [
    ({"num_attention_heads": 0}, "num_attention_heads: expected an integer from 1 to 4096, found 0"),
    ({"num_attention_heads": -4}, "num_attention_heads: .* found -4"),
    ({"num_attention_heads": MISSING}, "num_attention_heads: missing"),
    ({"head_dim": 0}, "head_dim: .* found 0"),
    ({"head_dim": 9}, "head_dim: RoPE rotates pairs, expected an even number, found 9"),
    ({"head_dim": None, "hidden_size": 35}, r"num_attention_heads: 6 does not divide hidden_size \(35\)"),
    ({"num_key_value_heads": 4}, "attention heads: 6 query heads do not divide into 4 key/value heads"),
    ({"num_key_value_heads": 0}, "num_key_value_heads: .* found 0"),
    ({"num_hidden_layers": 10**9}, "num_hidden_layers: expected an integer from 1 to 1024, found 1000000000"),
    ({"num_hidden_layers": True}, "num_hidden_layers: expected an integer .* found true"),
    ({"num_hidden_layers": 2.0}, "num_hidden_layers: expected an integer .* found 2"),
    ({"num_hidden_layers": "2"}, "num_hidden_layers: expected an integer .* found '2'"),
    ({"hidden_size": 10**6000}, "hidden_size: .* found an integer of more than 64 bits"),
    ({"hidden_size": [36]}, "hidden_size: .* found a list"),
    ({"vocab_size": 1 << 31}, "vocab_size: .* found 2147483648"),
    ({"max_position_embeddings": 1 << 31}, "max_position_embeddings: .* found 2147483648"),
    ({"rope_theta": float("nan")}, "rope_theta: expected a number from 1 to 1e.12, found nan"),
    ({"rope_theta": float("inf")}, "rope_theta: .* found inf"),
    ({"rope_theta": 0}, "rope_theta: .* found 0"),
    ({"rope_theta": "10000"}, "rope_theta: .* found '10000'"),
    ({"rope_theta": 10**400}, "rope_theta: .* found an integer of more than 64 bits"),
    ({"rms_norm_eps": -1e-6}, "rms_norm_eps: expected a number from 0 to 1, found -1e-06"),
    ({"rms_norm_eps": True}, "rms_norm_eps: .* found true"),
    ({"hidden_act": "relu"}, "hidden_act: expected one of gelu, .* found 'relu'"),
    ({"hidden_act": {"a": 1}}, "hidden_act: .* found a dict"),
    ({"attention_bias": 1}, "attention_bias: expected true or false, found 1"),
    ({"tie_word_embeddings": "yes"}, "tie_word_embeddings: .* found 'yes'"),
    ({"rope_scaling": {"rope_type": "longrope", "factor": 4.0}}, "rope_scaling: rope_type: .* found 'longrope'"),
    ({"rope_scaling": {"rope_type": "yarn"}}, "rope_scaling: factor: missing"),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "tuned": True}}, "tuned: unknown key"),
    (
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "beta_fast": 1}},
        r"beta_fast: expected more than beta_slow \(1\), found 1",
    ),
    (
        {"rope_scaling": {"type": "yarn", "factor": 4.0}, "rope_theta": 1},
        "rope_theta: expected more than 1 with a",
    ),
    ({"rope_scaling": {"type": "ntk", "factor": 4.0}}, "rope_scaling: type: .* found 'ntk'"),
    ({"rope_scaling": {"rope_type": "linear"}}, "rope_scaling: factor: missing"),
    ({"rope_scaling": {"rope_type": "linear", "factor": float("nan")}}, "rope_scaling: factor: .* found nan"),
    ({"rope_scaling": {"rope_type": "linear", "factor": 2.0, "beta_fast": 32}}, "beta_fast: unknown key"),
    (
        {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0}},
        "high_freq_factor: expected more than low_freq_factor",
    ),
    ({"rope_scaling": "linear"}, "rope_scaling: expected an object of keys and values, found 'linear'"),
    (
        {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"rope_type": "default"}},
        "rope_scaling: differs from rope_parameters",
    ),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor: expected 1 or null .* found 0.5"),
    ({"model_type": "qwen2"}, "model_type: expected one of llama, found 'qwen2'"),
    ({"auto_map": {"AutoConfig": "x.py"}}, "auto_map: refused"),
    ({"trust_remote_code": True}, "trust_remote_code: refused"),
    ({"quantization_config": {"bits": 4}}, "quantization_config: the weights are quantised .4 bits., which is not"),
    ({"is_encoder_decoder": True}, "is_encoder_decoder: expected false or null"),
    ({"pruned_heads": {"0": [1]}}, "pruned_heads: expected an empty dict or null"),
    ({"rope_interleaved": True}, "rope_interleaved: expected false or null"),
    ({"residual_multiplier": 0.22}, r"residual_multiplier: unknown key \(found 0.22\)"),
    ({"sliding_window": 100}, "sliding_window: unknown key"),  # Llama has none
    ({"num_local_experts": 8}, "num_local_experts: unknown key"),
]


def changed(values: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in {**values, **change}.items() if value is not MISSING}


@pytest.mark.parametrize(("change", "message"), BAD_LLAMA)
def test_bad_llama_config(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        llama.Config.from_hf(changed(LLAMA, change))
    assert isinstance(caught.value, PymlError)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


BAD_GEMMA3: list[tuple[dict[str, Any], str]] = [
    ({"layer_types": ["full_attention"]}, "layer_types: expected a list of 3 of sliding_attention, full_attention"),
    ({"layer_types": ["full_attention", "chunked", "full_attention"]}, "layer_types: expected a list of 3"),
    ({"layer_types": [["full_attention"]] * 3}, "layer_types: expected a list of 3"),
    ({"layer_types": "full_attention"}, "layer_types: expected a list of 3"),
    ({"sliding_window": None}, "sliding_window: expected at least 1"),
    ({"sliding_window": 0}, "sliding_window: expected an integer from 1"),
    ({"sliding_window_pattern": 0}, "sliding_window_pattern: expected an integer from 1"),
    ({"query_pre_attn_scalar": 0}, "query_pre_attn_scalar: .* found 0"),
    ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping: expected null .* found 50"),
    ({"final_logit_softcapping": -30.0}, "final_logit_softcapping: .* found -30"),
    ({"use_bidirectional_attention": True}, "use_bidirectional_attention: expected false or null"),
    ({"rope_local_base_freq": float("nan")}, "rope_local_base_freq: .* found nan"),
    ({"rope_parameters": {"rope_type": "default"}}, "rope_parameters: rope_type: unknown key"),
    ({"rope_parameters": {"full_attention": {"rope_type": "su"}}}, "full_attention: rope_type: .* found 'su'"),
    ({"rope_parameters": {"full_attention": 4}}, "full_attention: expected an object of keys and values, found 4"),
    ({"hidden_activation": "quick_gelu"}, "hidden_activation: .* found 'quick_gelu'"),
    ({"num_experts": 4}, "num_experts: unknown key"),
]


@pytest.mark.parametrize(("change", "message"), BAD_GEMMA3)
def test_bad_gemma3_config(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        gemma3.Config.from_hf(changed(GEMMA3, change))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({**GEMMA_4B, "text_config": None}, "text_config: expected an object of keys and values, found null"),
        ({**GEMMA_4B, "text_config": {"model_type": "llama"}}, "text_config: model_type: .* found 'llama'"),
        ({**GEMMA_4B, "text_config": {**GEMMA3, "depth": 3}}, "text_config: depth: unknown key"),
        ({**GEMMA_4B, "logit_scale": 3.0}, "logit_scale: unknown key"),
        ([], "expected an object of keys and values, found an empty list"),
    ],
)
def test_bad_nested_gemma3_config(values: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        gemma3.Config.from_hf(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_head": 4}, "hidden size: 30 does not divide into 4 attention heads"),
        ({"n_embd": 0}, "n_embd: .* found 0"),
        ({"n_inner": -1}, "n_inner: .* found -1"),
        ({"layer_norm_epsilon": "1e-5"}, "layer_norm_epsilon: .* found '1e-5'"),
        ({"add_cross_attention": True}, "add_cross_attention: expected false or null"),
        ({"scale_attn_weights": 0}, "scale_attn_weights: expected true or false, found 0"),
        ({"rope_theta": 10000.0}, "rope_theta: unknown key"),
    ],
)
def test_bad_gpt2_config(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        gpt2.Config.from_hf(changed(GPT2, change))


def test_show_is_short_for_every_value() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    values: tuple[Any, ...] = (deep, "x" * 10**6, 10**10_000, {1: 2}, b"x", float("-inf"), object())
    for value in values:
        assert len(show(value)) < 80
    plain: list[Any] = [None, True, 3, 2.5, "a", {}]
    assert [show(value) for value in plain] == [
        "null",
        "true",
        "3",
        "2.5",
        "'a'",
        "an empty dict",
    ]


# ---- tables of keys


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_tables_have_a_row_for_each_field(name: str) -> None:
    """A row sets a field of the configuration, and a field without a row has a default."""
    config = ARCHITECTURES[name].Config
    names = {field.name for field in dataclasses.fields(config)}
    required = {field.name for field in dataclasses.fields(config) if field.default is dataclasses.MISSING}
    for rows in (set(config.HF.rows), {*config.GGUF.rows, "vocab_size"}):
        assert required <= rows <= names


def test_a_key_is_read_by_its_kind() -> None:
    def read(key: Key, **values: Any) -> Any:
        return key(Fields(values, "config.json"), {"width": 12})

    assert read(Key("n", int, 1, 9), n=3) == 3
    assert read(Key("x", float, 0, 1, 0.5)) == 0.5
    assert read(Key("x", float, 0, 2), x=2) == 2.0
    assert read(Key("b", bool, default=True)) is True
    assert read(Key("name", {"a": "A"}, default="a")) == "A"
    assert read(Key("n", int, 1, 99, lambda known: 4 * known["width"])) == 48
    assert read(Key("n", int, 1, 99, lambda known: 4 * known["width"]), n=5) == 5
    for key, values, message in (
        (Key("n", int, 1, 9), {}, "n: missing, expected an integer from 1 to 9"),
        (Key("n", int, 1, 9), {"n": 10}, "n: expected an integer from 1 to 9, found 10"),
        (Key("b", bool, default=False), {"b": 1}, "b: expected true or false, found 1"),
        (Key("name", {"a": "A"}), {"name": "b"}, "name: expected one of a, found 'b'"),
    ):
        with pytest.raises(ConfigError, match=message):
            read(key, **values)


def test_pinned_keys() -> None:
    table = hf.Table(("llama",), {}, fixed={"use_mrope": False, "extra": None})
    table.read({"model_type": "llama", "use_mrope": False, "extra": None}, "config.json")
    for change, message in (
        ({"use_mrope": True}, "use_mrope: expected false or null"),
        ({"extra": 0}, r"extra: expected null \(pyml supports nothing else here\), found 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            table.read({"model_type": "llama", **change}, "config.json")
