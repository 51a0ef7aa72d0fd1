"""Configurations of OLMo 2, OLMo 3 and OLMoE."""

from __future__ import annotations

from typing import Any

import pytest
from nn_models import OLMO3, gguf_metadata, make

from pyml_nn.errors import ConfigError
from pyml_nn.layers.rope import Rope, YarnScaling
from pyml_nn.models import architecture_of, olmo2, olmoe

OLMO_2_7B: dict[str, Any] = {
    "architectures": ["Olmo2ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "eos_token_id": 100257,
    "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 11008,
    "max_position_embeddings": 4096, "model_type": "olmo2", "num_attention_heads": 32, "num_hidden_layers": 32,
    "num_key_value_heads": 32, "pad_token_id": 100277, "rms_norm_eps": 1e-06, "rope_scaling": None,
    "rope_theta": 500000, "tie_word_embeddings": False, "torch_dtype": "float32", "transformers_version": "4.47.0",
    "use_cache": False, "vocab_size": 100352,
}  # fmt: skip
OLMO_3_7B: dict[str, Any] = {
    **OLMO_2_7B, "architectures": ["Olmo3ForCausalLM"], "model_type": "olmo3", "max_position_embeddings": 65536,
    "vocab_size": 100278, "sliding_window": 4096,
    "layer_types": [*["sliding_attention"] * 3, "full_attention"] * 8,
    "rope_scaling": {
        "attention_factor": 1.2079441541679836, "beta_fast": 32.0, "beta_slow": 1.0, "factor": 8.0,
        "original_max_position_embeddings": 8192, "rope_type": "yarn",
    },
}  # fmt: skip
OLMOE_1B_7B: dict[str, Any] = {
    "architectures": ["OlmoeForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "clip_qkv": None,
    "eos_token_id": 50279, "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02,
    "intermediate_size": 1024, "max_position_embeddings": 4096, "model_type": "olmoe", "norm_topk_prob": False,
    "num_attention_heads": 16, "num_experts": 64, "num_experts_per_tok": 8, "num_hidden_layers": 16,
    "num_key_value_heads": 16, "output_router_logits": False, "pad_token_id": 1, "rms_norm_eps": 1e-05,
    "rope_scaling": None, "rope_theta": 10000.0, "router_aux_loss_coef": 0.01, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "transformers_version": "4.43.0.dev0", "use_cache": True, "vocab_size": 50304,
}  # fmt: skip


def test_olmo2() -> None:
    config = olmo2.Config.from_hf(OLMO_2_7B)
    assert (config.windows, config.rope, config.local_rope) == ((0,) * 32, Rope(128, 5e5), Rope(128, 5e5))
    shapes = olmo2.Model.specs(config)
    assert shapes["layers.0.attention.q_norm.weight"].shape == (4096,)


def test_olmo3() -> None:
    config = olmo2.Config.from_hf(OLMO_3_7B)
    assert config.windows == (4096, 4096, 4096, 0) * 8
    yarn = YarnScaling(8.0, 8192, 32.0, 1.0, True, 1.2079441541679836)
    assert (config.rope, config.local_rope) == (Rope(128, 5e5, yarn), Rope(128, 5e5))
    assert architecture_of(OLMO_3_7B, "config.json") is olmo2
    absent = {key: value for key, value in OLMO_3_7B.items() if key not in ("layer_types", "sliding_window")}
    assert olmo2.Config.from_hf(absent) == config  # transformers' defaults
    new = {key: value for key, value in OLMO_3_7B.items() if not key.startswith("rope_")}
    new["rope_parameters"] = {
        "full_attention": {**OLMO_3_7B["rope_scaling"], "rope_theta": 500000},
        "sliding_attention": {"rope_type": "default", "rope_theta": 500000},
    }
    assert olmo2.Config.from_hf(new) == config  # transformers 5


def test_olmo3_in_gguf_files() -> None:
    metadata = gguf_metadata(OLMO3)
    config = olmo2.Config.from_gguf(metadata)
    assert config.windows == (9, 9, 9, 0)
    assert (config.local_rope, config.rope.scaling is None) == (Rope(10, 5000.0), False)
    flags = {"olmo2.attention.sliding_window_pattern": [False, True, False, False]}
    assert olmo2.Config.from_gguf({**metadata, **flags}).windows == (0, 9, 0, 0)
    plain = {key: value for key, value in metadata.items() if "sliding" not in key}
    assert olmo2.Config.from_gguf(plain).windows == (0, 0, 0, 0)


def test_olmoe() -> None:
    config = olmoe.Config.from_hf(OLMOE_1B_7B)
    assert (config.n_experts, config.n_chosen, config.experts_per_token, config.normalize) == (64, 8, 8, False)
    assert config.rope == Rope(128, 1e4)


def test_norms_are_of_all_heads_together() -> None:
    prepares = [op for op in make(OLMO3).program.operations if op.kind == "prepare_qkv"]
    assert [(op.params["normalize"], len(op.params["q_norm"])) for op in prepares] == [(True, 60)] * 4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({**OLMO_2_7B, "sliding_window": 64}, "sliding_window: unknown key"),
        ({**OLMO_2_7B, "clip_qkv": 8.0}, "clip_qkv: unknown key"),
        ({**OLMO_3_7B, "sliding_window": None}, "layer_types: expected no sliding_attention"),
        ({**OLMO_3_7B, "layer_types": ["full_attention"]}, "layer_types: expected a list of 32"),
        ({**OLMO_3_7B, "rope_parameters": {"chunked": {}}}, "rope_parameters: chunked: unknown key"),
        ({**OLMOE_1B_7B, "clip_qkv": 8.0}, "clip_qkv: expected null"),
        ({**OLMOE_1B_7B, "num_experts_per_tok": 65}, "experts: 65 are chosen of 64"),
    ],
)
def test_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        architecture_of(values, "config.json").Config.from_hf(values)
