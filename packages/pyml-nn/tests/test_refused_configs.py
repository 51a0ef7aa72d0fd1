"""Bad configurations are refused with a message that names the key."""

from __future__ import annotations

from typing import Any

import pytest
from nn_models import GEMMA3, GPT2, LLAMA
from published_configs import (
    AYA_EXPANSE_8B,
    COMMAND_R7B,
    EXAONE_4_1B,
    EXAONE_4_32B,
    GEMMA_4B,
    GLM4_9B_0414,
    HELIUM_1_PREVIEW,
    STABLELM_2,
)

from pyml_core.errors import PymlError
from pyml_nn.errors import ConfigError, show
from pyml_nn.models import cohere, cohere2, exaone4, gemma3, glm4, gpt2, helium, llama, stablelm

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
        ({"qk_layernorm": True}, "qk_layernorm: expected false or null"),
        ({"partial_rotary_factor": 0}, "partial_rotary_factor: expected a number from 0.001 to 1, found 0"),
        ({"use_parallel_residual": 1}, "use_parallel_residual: expected true or false, found 1"),
        ({"use_qkv_bias": "yes"}, "use_qkv_bias: expected true or false, found 'yes'"),
        ({"layer_norm_eps": -1}, "layer_norm_eps: expected a number from 0 to 1, found -1"),
        ({"rms_norm_eps": 1e-6}, "rms_norm_eps: unknown key"),
        ({"attention_bias": True}, "attention_bias: unknown key"),
    ],
)
def test_bad_stablelm_config(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        stablelm.Config.from_hf({**STABLELM_2, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "glm"}, "model_type: expected one of glm4, found 'glm'"),
        ({"partial_rotary_factor": 2}, "partial_rotary_factor: expected a number from 0.001 to 1, found 2"),
        ({"attention_bias": 1}, "attention_bias: expected true or false, found 1"),
        ({"use_qk_norm": True}, "use_qk_norm: unknown key"),
        ({"n_routed_experts": 8}, "n_routed_experts: unknown key"),
        ({"sliding_window": 100}, "sliding_window: unknown key"),
    ],
)
def test_bad_glm4_config(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        glm4.Config.from_hf({**GLM4_9B_0414, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_qk_norm": True}, "use_qk_norm: expected false or null"),
        ({"logit_scale": 0}, "logit_scale: expected a number from 1e-06 to 1e.06, found 0"),
        ({"attention_bias": 1}, "attention_bias: expected true or false, found 1"),
        ({"rms_norm_eps": 1e-6}, "rms_norm_eps: unknown key"),
        ({"sliding_window": 100}, "sliding_window: unknown key"),
    ],
)
def test_bad_cohere_config(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        cohere.Config.from_hf({**AYA_EXPANSE_8B, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_qk_norm": True}, "use_qk_norm: expected false or null"),
        ({"sliding_window": 0}, "sliding_window: expected an integer from 1"),
        ({"sliding_window_pattern": 0}, "sliding_window_pattern: expected an integer from 1"),
        ({"layer_switch": 2}, "layer_switch: expected 4 or null"),
        ({"order_of_interleaved_layers": "global_attn_first"}, "order_of_interleaved_layers: expected"),
        ({"position_embedding_type": "alibi"}, "position_embedding_type: expected"),
        ({"rotary_pct": 0.5}, "rotary_pct: unknown key"),
        ({"use_parallel_block": False}, "use_parallel_block: expected true or null"),
        ({"layer_types": ["full_attention"]}, "layer_types: expected a list of 32"),
    ],
)
def test_bad_cohere2_config(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        cohere2.Config.from_hf({**COMMAND_R7B, **change})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({**EXAONE_4_32B, "sliding_window_pattern": "LG"}, "sliding_window_pattern: .* found 'LG'"),
        ({**EXAONE_4_32B, "sliding_window": 0}, "sliding_window: expected an integer from 1"),
        ({**EXAONE_4_32B, "layer_types": ["full_attention"]}, "layer_types: expected a list of 64"),
        ({**EXAONE_4_32B, "use_qk_norm": True}, "use_qk_norm: unknown key"),
        ({**EXAONE_4_1B, "layer_types": ["sliding_attention"] * 30}, "layer_types: expected no sliding_attention"),
    ],
)
def test_bad_exaone4_config(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        exaone4.Config.from_hf(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head_dim": 9}, "head_dim: RoPE rotates pairs"),
        ({"mlp_bias": 1}, "mlp_bias: expected true or false, found 1"),
        ({"sliding_window": 100}, "sliding_window: unknown key"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor: expected 1 or null"),
    ],
)
def test_bad_helium_config(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        helium.Config.from_hf({**HELIUM_1_PREVIEW, **change})


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
