"""Configurations of Ministral 3."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from nn_models import MINISTRAL3, gguf_metadata

from pyml_nn.errors import ConfigError
from pyml_nn.layers.rope import Rope, YarnScaling
from pyml_nn.models import architecture_of, ministral3

ROPE: dict[str, Any] = {
    "beta_fast": 32.0, "beta_slow": 1.0, "factor": 16.0, "llama_4_scaling_beta": 0.1, "mscale": 1.0,
    "mscale_all_dim": 1.0, "original_max_position_embeddings": 16384, "rope_theta": 1000000.0, "rope_type": "yarn",
    "type": "yarn",
}  # fmt: skip
TEXT: dict[str, Any] = {
    "attention_dropout": 0.0, "head_dim": 128, "hidden_act": "silu", "hidden_size": 3072, "initializer_range": 0.02,
    "intermediate_size": 9216, "max_position_embeddings": 262144, "model_type": "ministral3",
    "num_attention_heads": 32, "num_hidden_layers": 26, "num_key_value_heads": 8, "rms_norm_eps": 1e-05,
    "rope_parameters": ROPE, "sliding_window": None, "tie_word_embeddings": True, "use_cache": True,
    "vocab_size": 131072,
}  # fmt: skip
MINISTRAL_3_3B: dict[str, Any] = {
    "architectures": ["Mistral3ForConditionalGeneration"], "dtype": "bfloat16", "image_token_index": 10,
    "model_type": "mistral3", "multimodal_projector_bias": False, "projector_hidden_act": "gelu",
    "spatial_merge_size": 2, "text_config": TEXT, "transformers_version": "5.0.0.dev0",
    "vision_config": {"hidden_size": 1024}, "vision_feature_layer": -1,
}  # fmt: skip


def magnitude(config: ministral3.Config) -> float:
    assert isinstance(config.rope.scaling, YarnScaling)
    return config.rope.scaling.magnitude


def test_published(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "pyml.load"):
        config = architecture_of(MINISTRAL_3_3B, "config.json").Config.from_hf(MINISTRAL_3_3B)
    assert config.rope == Rope(128, 1e6, YarnScaling(16.0, 16384, 32.0, 1.0, True, 1.0))
    assert (config.context_length, config.window, config.tie_word_embeddings) == (16384, 0, True)
    assert [record.message for record in caplog.records] == [
        "config.json: text_config: rope_parameters: llama_4_scaling_beta: queries are scaled from position 16384 on, "
        "which is not supported: a context ends there"
    ]
    assert ministral3.Config.from_hf(TEXT).context_length == 16384
    unscaled = {**TEXT, "rope_parameters": {**ROPE, "llama_4_scaling_beta": 0.0}}
    assert ministral3.Config.from_hf(unscaled).context_length == 262144


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rope_parameters": None}, "rope_parameters: missing, expected an object"),
        ({"rope_parameters": {**ROPE, "llama_4_scaling_beta": -1}}, "llama_4_scaling_beta: expected a number from 0"),
        ({"rope_parameters": {**ROPE, "rope_scale": 2}}, "rope_parameters: rope_scale: unknown key"),
        ({"attention_bias": True}, "attention_bias: unknown key"),
    ],
)
def test_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ministral3.Config.from_hf({**TEXT, **change})


def test_gguf(caplog: pytest.LogCaptureFixture) -> None:
    metadata = gguf_metadata(MINISTRAL3)
    config = ministral3.Config.from_gguf(metadata)
    assert (config.context_length, magnitude(config)) == (200, 1.0)
    assert not caplog.records
    longer = {**metadata, "mistral3.context_length": 800}
    assert ministral3.Config.from_gguf(longer).context_length == 200
    assert caplog.records[0].message.startswith("GGUF metadata: mistral3.attention.temperature_scale: queries are")
    assert ministral3.Config.from_gguf({**longer, "mistral3.attention.temperature_scale": 0.0}).context_length == 800
    assert ministral3.Config.from_gguf({**longer, "mistral3.attention.temperature_length": 300}).context_length == 300
    divided = ministral3.Config.from_gguf({**metadata, "mistral3.rope.scaling.yarn_log_multiplier": 0.0})
    assert magnitude(divided) > 1.1
    with pytest.raises(ConfigError, match=r"mistral3\.rope\.scaling\.yarn_log_multiplier: expected a number from 0"):
        ministral3.Config.from_gguf({**metadata, "mistral3.rope.scaling.yarn_log_multiplier": -1.0})
