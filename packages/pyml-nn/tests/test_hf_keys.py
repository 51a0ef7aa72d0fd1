"""Keys of config.json that no architecture reads: ignored, ignored with a warning, or refused."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import pytest
from nn_models import CONFIGS, FALCON, GEMMA3, LLAMA, PHI3

from pyml_nn.errors import ConfigError
from pyml_nn.layers.rope import Rope, YarnScaling
from pyml_nn.models import architecture_of

SILENT: dict[str, Any] = {
    "_name_or_path": "someone/something", "architectures": ["X"], "torch_dtype": "bfloat16", "dtype": "bfloat16",
    "transformers_version": "4.51.3", "use_cache": False, "pretraining_tp": 2, "id2label": {"0": "a"},
    "unsloth_version": "2025.3", "unsloth_fixed": True, "axolotl_version": "0.8", "mergekit_version": "0.1",
    "attention_dropout": 0.1, "classifier_dropout": 0.1, "attention_probs_dropout_prob": 0.1, "embd_pdrop": 0.1,
    "router_aux_loss_coef": 0.1, "z_loss": 1e-4, "initializer_range": 0.02, "initializer_factor": 1, "init_std": 0.1,
    "image_token_id": 5, "bos_token": "<s>", "pad_token_id": -1, "eos_token_id": [1, 2], "use_flash_attention_2": True,
    "use_fused_rms_norm": True, "model_max_length": 4096, "max_seq_len": 4096, "seq_length": 4096, "max_length": 20,
    "tokenizer_class": "X", "chat_template": "x", "train_batch_size": 8, "learning_rate": 1e-5, "weight_decay": 0.1,
    "gradient_checkpointing": True, "lora_alpha": 16, "base_model": "a/b", "base_model_name_or_path": "a/b",
    "license": "mit", "datasets": ["a"], "num_nextn_predict_layers": 1, "_attn_implementation": "eager",
    "mlp_bias_": None, "trust_remote_code": False, "auto_map": {},
    "is_causal": True, "use_rope": True, "lm_head_bias": False, "full_attn_mod": 1, "interpolate_factor": 1,
    "embedding_multiplier": 1.0, "logits_scaling": 1, "use_qk_norm": False, "normalize_attention_scores": True,
}  # fmt: skip
WARNED: dict[str, Any] = {
    "use_gated_attention": False, "layer_groups": [], "attention_sink_mode": "", "special_heads": {},
    "wonderful": True, "my_note": "for testing", "hub_url": "https://somewhere", "run": {"attention": 3},
}  # fmt: skip
REFUSED: dict[str, Any] = {
    "attention_chunk_size": 8, "sliding_windows": [8], "qk_layer_norms": True, "logit_cap": 30.0, "residual_alpha": 0.5,
    "embedding_scale": 0.5, "use_logn_attn": True, "num_shared_experts": 1, "rope_percent": 0.5, "head_gate": True,
    "expert_selection": "x", "mup": True, "attn_temperature": 2.0, "yarn": 1, "q_scale": 0, "layerTypes": ["full"],
    "activation_sparsity": 0.9, "is_causal": False, "use_rope": False, "embedding_multiplier": 12.0,
    "logit_scale": True, "full_attn_mod": 2, "clip_qkv": 8.0, "use_bidirectional_attention": True,
    "transformers_weights": "x.safetensors",
    "per_layer_config": {"0": {"head_dim": 3}}, "quant_bits": 8, "multi_query_": 1,
}  # fmt: skip


def config(values: Mapping[str, Any]) -> Any:
    return architecture_of(values, "config.json").Config.from_hf(dict(values))


@pytest.mark.parametrize("name", CONFIGS)
def test_keys_that_say_nothing(name: str, caplog: pytest.LogCaptureFixture) -> None:
    silent = {key: value for key, value in SILENT.items() if key not in CONFIGS[name]}
    assert config({**silent, **CONFIGS[name]}) == config(CONFIGS[name])
    assert not caplog.records


@pytest.mark.parametrize("key", WARNED)
def test_keys_that_are_passed_over_with_a_warning(key: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "pyml.load"):
        for name, values in CONFIGS.items():
            assert config({**values, key: WARNED[key]}) == config(values), name
    assert len(caplog.records) == len(CONFIGS)
    for record in caplog.records:
        assert record.message.startswith(f"config.json: {key} (found ")
        assert record.message.endswith("): unknown key, ignored")


def test_one_warning_for_all_keys(caplog: pytest.LogCaptureFixture) -> None:
    long = "x" * 100_000
    config({**LLAMA, "one\nline": 1, long: 2, "three": 3, "four": 4, "five": 5})
    (record,) = caplog.records
    assert record.message.endswith("... (found 2), three (found 3) and 2 more: unknown keys, ignored")
    assert record.message.isprintable()
    assert len(record.message) < 300


@pytest.mark.parametrize("key", REFUSED)
def test_keys_that_may_change_the_mathematics(key: str) -> None:
    for name, values in CONFIGS.items():
        if key == "use_bidirectional_attention" and name.startswith("gemma"):
            continue  # read there, and refused too: see test_config.py
        if key == "embedding_multiplier" and name == "granite":
            continue  # read there, see test_granite.py
        with pytest.raises(
            ConfigError,
            match=rf"^config\.json: {key}: (unknown key|expected (false or )?null|expected a number).*found ",
        ) as caught:
            config({**values, key: REFUSED[key]})
        assert "\n" not in str(caught.value)


def test_the_vision_part_of_gemma_3_is_read_alike(caplog: pytest.LogCaptureFixture) -> None:
    outer = {"model_type": "gemma3", "text_config": GEMMA3, "vision_config": {"hidden_size": 3}}
    assert config({**outer, "wonderful": 1}) == config(outer)
    assert [record.message for record in caplog.records] == ["config.json: wonderful (found 1): unknown key, ignored"]
    with pytest.raises(ConfigError, match="text_config: logit_cap: unknown key"):
        config({**outer, "text_config": {**GEMMA3, "logit_cap": 1.0}})


def test_phi_4_mini() -> None:
    """Its configuration has keys that only its former own code read."""
    published = {
        "_name_or_path": "Phi-4-mini-instruct", "architectures": ["Phi3ForCausalLM"], "attention_bias": False,
        "attention_dropout": 0.0, "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config", "AutoModelForCausalLM":
        "modeling_phi3.Phi3ForCausalLM", "AutoTokenizer": "Xenova/gpt-4o"}, "bos_token_id": 199999, "embd_pdrop": 0.0,
        "eos_token_id": 199999, "full_attn_mod": 1, "hidden_act": "silu", "hidden_size": 3072,
        "initializer_range": 0.02, "intermediate_size": 8192, "interpolate_factor": 1, "lm_head_bias": False,
        "max_position_embeddings": 131072,
        "mlp_bias": False, "model_type": "phi3", "num_attention_heads": 24, "num_hidden_layers": 32,
        "num_key_value_heads": 8, "original_max_position_embeddings": 4096, "pad_token_id": 199999,
        "partial_rotary_factor": 0.75, "resid_pdrop": 0.0, "rms_norm_eps": 1e-05, "rope_scaling": {"long_factor":
        [1.0] * 48, "short_factor": [1.0] * 48, "type": "longrope"}, "rope_theta": 10000.0, "sliding_window": 262144,
        "tie_word_embeddings": True, "torch_dtype": "bfloat16", "transformers_version": "4.45.0", "use_cache": True,
        "vocab_size": 200064,
    }  # fmt: skip
    found = config(published)
    assert (found.rope.dim, found.tie_word_embeddings, found.original_context) == (96, True, 4096)


# ---- quantisation


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 64}}, "quantised with AWQ (4 bits),"),
        ({"quantization_config": {"quant_method": "awq", "w_bit": 4}}, "quantised with AWQ (4 bits),"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 3}}, "quantised with GPTQ (3 bits),"),
        ({"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}, "quantised with FP8,"),
        ({"quantization_config": {"load_in_4bit": True}}, "quantised with bitsandbytes,"),
        ({"quantization_config": {"quant_method": "bitsandbytes_8bit"}}, "quantised with bitsandbytes,"),
        ({"quantization_config": {"config_groups": {}}}, "quantised with compressed-tensors,"),
        ({"compression_config": {"quant_method": "compressed-tensors"}}, "quantised with compressed-tensors,"),
        ({"quantization_config": {"quant_algo": "FP8"}}, "quantised with ModelOpt,"),
        ({"quantization": {"group_size": 64, "bits": 4}}, "quantised with MLX (4 bits),"),
        ({"quantization": {"group_size": 64, "bits": 4}, "quantization_config": {"group_size": 64, "bits": 4}},
         "quantised with MLX (4 bits),"),
        ({"quantization_config": {"quant_method": "new\none" * 100}}, r"quantised with 'new\none"),
        ({"quantization_config": {"bits": True}}, "quantised, which"),
        ({"quantization_config": {}}, "quantised, which"),
        ({"quantization_config": "q4"}, "quantised, which"),
    ],
)  # fmt: skip
def test_quantised_weights_are_refused_by_the_name_of_the_scheme(change: dict[str, Any], said: str) -> None:
    for values in (LLAMA, GEMMA3, FALCON):
        with pytest.raises(ConfigError) as caught:
            config({**values, **change})
        message = str(caught.value)
        assert f"{next(iter({'quantization_config': 0} & change.keys() or change))}: the weights are {said}" in message
        assert message.endswith("use the weights in bf16, f16 or f32, or a GGUF file")
        assert "\n" not in message
        assert len(message) < 250
    assert config({**LLAMA, "quantization_config": None}) == config(LLAMA)


# ---- dynamic scaling


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in ("gpt2", "phi3", "ministral3")])
def test_dynamic_scaling_ends_the_context(name: str, caplog: pytest.LogCaptureFixture) -> None:
    values = {key: value for key, value in CONFIGS[name].items() if not key.startswith("rope_sc")}
    plain = config({**values, "max_position_embeddings": 200})
    for section, expected in (
        ({"type": "dynamic", "factor": 4.0}, 200),
        ({"rope_type": "dynamic", "factor": 4.0, "original_max_position_embeddings": 50}, 50),
        ({"rope_type": "dynamic", "factor": 4.0, "original_max_position_embeddings": 500}, 200),
    ):
        caplog.clear()
        found = config({**values, "max_position_embeddings": 200, "rope_scaling": section})
        assert found.context_length == expected
        assert found.rope == plain.rope
        assert [record.message for record in caplog.records] == [
            f"config.json: rope_scaling: dynamic scaling begins after {expected} positions and is not supported: a "
            "context ends there"
        ]


def test_dynamic_scaling_in_other_spellings() -> None:
    rope = {"rope_type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 64, "rope_theta": 5000.0}
    found = config({**LLAMA, "rope_parameters": rope})
    assert (found.context_length, found.rope) == (64, Rope(10, 5000.0))
    layers = {"full_attention": rope, "sliding_attention": {"rope_type": "default", "rope_theta": 300.0}}
    found = config({**GEMMA3, "rope_parameters": layers})
    assert (found.context_length, found.rope, found.local_rope) == (64, Rope(14, 5000.0), Rope(14, 300.0))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"type": "dynamic"}, "factor: missing"),
        ({"type": "dynamic", "factor": 0}, "factor: expected a number"),
        ({"type": "dynamic", "factor": 1.0, "alpha": 1000.0}, "alpha: unknown key"),
        ({"type": "dynamic", "factor": 1.0, "original_max_position_embeddings": -1}, "embeddings: expected an integer"),
        ({"type": "dynamic", "rope_type": "linear", "factor": 2.0, "mrope_section": [1]}, "mrope_section: unknown key"),
    ],
)
def test_bad_dynamic_scaling(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"rope_scaling: .*{message}"):
        config({**LLAMA, "rope_scaling": section})


def test_other_scalings_keep_their_contexts() -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 50, "finetuned": True}
    found = config({**LLAMA, "rope_scaling": yarn})
    assert isinstance(found.rope.scaling, YarnScaling)
    assert (found.context_length, found.rope.scaling.original_context) == (200, 50)
    with pytest.raises(ConfigError, match=r"rope_scaling: type: expected one of .*found 'dynamic'"):
        config({**PHI3, "rope_scaling": {"type": "dynamic", "factor": 2.0}})


@pytest.mark.parametrize("key", ["attention_chunk_size", "residual_alpha", "quant_bits"])
def test_unknown_keys_can_be_allowed(key: str, caplog: pytest.LogCaptureFixture) -> None:
    values = {**LLAMA, key: 8, "rope_scaling": {"rope_type": "default", "spin": 3}}
    found = architecture_of(values, "config.json").Config.from_hf(values, allow_unknown=True)
    assert found == config(LLAMA)
    messages = sorted(record.message for record in caplog.records)
    end = "which may change the model's results: ignored, because unknown keys are allowed"
    assert messages == [
        f"config.json: {key}: unknown key (found 8), {end}",
        f"config.json: rope_scaling: spin: unknown key (found 3), {end}",
    ]


def test_unsupported_values_stay_errors() -> None:
    values = {**LLAMA, "rope_interleaved": True}
    with pytest.raises(ConfigError, match="rope_interleaved: expected false"):
        architecture_of(values, "config.json").Config.from_hf(values, allow_unknown=True)
