"""Configurations of Granite."""

from __future__ import annotations

from typing import Any

import pytest
from nn_models import GRANITE, gguf_metadata, make

from pyml_nn.errors import ConfigError
from pyml_nn.layers.rope import Rope
from pyml_nn.models import architecture_of, granite

GRANITE_3_3_2B = {
    "architectures": ["GraniteForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "attention_multiplier": 0.015625, "bos_token_id": 0, "embedding_multiplier": 12.0, "eos_token_id": 0,
    "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 8192,
    "logits_scaling": 8.0, "max_position_embeddings": 131072, "mlp_bias": False, "model_type": "granite",
    "num_attention_heads": 32, "num_hidden_layers": 40, "num_key_value_heads": 8, "pad_token_id": 0,
    "residual_multiplier": 0.22, "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 10000000.0,
    "tie_word_embeddings": True, "torch_dtype": "bfloat16", "transformers_version": "4.49.0", "use_cache": True,
    "vocab_size": 49159,
}  # fmt: skip


def test_published() -> None:
    config = granite.Config.from_hf(GRANITE_3_3_2B)
    assert (config.embedding_factor, config.branch_factor, config.score_factor) == (12.0, 0.22, 0.015625)
    assert (config.logit_divisor, config.rope, config.head_dim) == (8.0, Rope(64, 1e7), 64)
    assert architecture_of(GRANITE_3_3_2B, "config.json") is granite
    plain = {key: value for key, value in GRANITE_3_3_2B.items() if not key.endswith(("_multiplier", "_scaling"))}
    defaults = granite.Config.from_hf(plain)
    assert (defaults.embedding_factor, defaults.branch_factor, defaults.logit_divisor) == (1, 1, 1)
    assert defaults.score_factor == 1  # transformers' default, not head_dim ** -0.5


@pytest.mark.parametrize("absent", [None, 0.0])
def test_absent_factors_of_gguf_files(absent: float | None) -> None:
    """As in llama.cpp: 1, and ``head_dim ** -0.5`` for the scores."""
    metadata = gguf_metadata(GRANITE)
    for key in ("embedding_scale", "residual_scale", "attention.scale"):
        if absent is None:
            del metadata[f"granite.{key}"]
        else:
            metadata[f"granite.{key}"] = absent
    config = granite.Config.from_gguf(metadata)
    assert (config.embedding_factor, config.branch_factor, config.score_factor) == (1, 1, 10**-0.5)


def test_factors_of_the_layers() -> None:
    attends = [op for op in make(GRANITE).program.operations if op.name.endswith(".attend")]
    assert [op.params["scale"] for op in attends] == [0.2, 0.2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"residual_multiplier": 0}, "residual_multiplier: expected a number from 1e-06 to 1e.06, found 0"),
        ({"logits_scaling": -1.0}, "logits_scaling: expected a number from 1e-06 to 1e.06, found -1"),
        ({"embedding_multiplier": "12"}, "embedding_multiplier: expected a number .*, found '12'"),
        ({"num_local_experts": 4}, "num_local_experts: unknown key"),
        ({"sliding_window": 64}, "sliding_window: unknown key"),
    ],
)
def test_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        granite.Config.from_hf({**GRANITE_3_3_2B, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rope.scaling.finetuned": False}, r"granite\.rope\.scaling\.finetuned: expected true or null"),
        ({"residual_scale": 1e-9}, r"granite\.residual_scale: expected a number from 1e-06 to 1e.06, found 1e-09"),
        ({"attention.scale": -1.0}, r"granite\.attention\.scale: expected a number from 0 to 1e.06, found -1"),
        ({"logit_scale": None}, r"granite\.logit_scale: missing"),
        ({"expert_count": 8}, r"granite\.expert_count: expected 0 or null"),
    ],
)
def test_refused_in_gguf(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        granite.Config.from_gguf({**gguf_metadata(GRANITE), **{f"granite.{key}": v for key, v in change.items()}})
