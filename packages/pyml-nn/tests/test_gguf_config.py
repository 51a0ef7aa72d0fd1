"""Configurations in GGUF metadata are equal to those of a ``config.json``; errors name the key."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from nn_models import FALCON_NEW, GEMMA2, GEMMA3, GPT2, LLAMA, MISTRAL, MIXTRAL, QWEN2, QWEN3, gguf_metadata

from pyml_nn.errors import ConfigError
from pyml_nn.models import architecture_of, gemma2, gemma3, llama

MISSING = object()


@pytest.mark.parametrize(
    "values", [GPT2, LLAMA, MISTRAL, GEMMA2, GEMMA3, QWEN2, QWEN3], ids=lambda values: str(values["model_type"])
)
def test_gguf_metadata_says_the_same(values: dict[str, Any]) -> None:
    config = architecture_of(values, "config.json").Config.from_hf(values)
    metadata = gguf_metadata(values)
    found = architecture_of(metadata, "m.gguf").Config.from_gguf(metadata)
    for field in (
        "vocab_size",
        "hidden_size",
        "n_layers",
        "n_kv_heads",
        "head_dim",
        "rope",
        "sliding",
        "query_scale",
        "windows",
    ):
        assert getattr(found, field, None) == getattr(config, field, None)


def test_gguf_vocabulary_size_from_the_tokens() -> None:
    metadata = gguf_metadata(LLAMA)
    del metadata["llama.vocab_size"]
    assert llama.Config.from_gguf({**metadata, "tokenizer.ggml.tokens": ["a"] * 7}).vocab_size == 7
    with pytest.raises(ConfigError, match=r"llama\.vocab_size: missing"):
        llama.Config.from_gguf(metadata)


def test_gguf_gemma3_27b_has_a_scale_of_its_own() -> None:
    metadata = gguf_metadata({**GEMMA3, "num_hidden_layers": 62, "hidden_size": 672})
    assert gemma3.Config.from_gguf(metadata).query_scale == (672 / 4) ** -0.5
    assert gemma3.Config.from_gguf({**metadata, "gemma3.block_count": 26}).query_scale == 14**-0.5


def test_gguf_gemma2() -> None:
    metadata = gguf_metadata({**GEMMA2, "num_hidden_layers": 46, "hidden_size": 672})
    assert gemma2.Config.from_gguf(metadata).query_scale == (672 / 4) ** -0.5  # the 27B model's
    oldest = {key: value for key, value in metadata.items() if "softcapping" not in key}
    config = gemma2.Config.from_gguf(oldest)
    assert (config.score_soft_cap, config.final_soft_cap) == (50.0, 30.0)


def test_gguf_numbers_may_be_numpy_scalars() -> None:
    metadata = gguf_metadata(LLAMA)
    metadata["llama.block_count"] = np.uint32(5)
    metadata["llama.rope.freq_base"] = np.float32(5000.0)
    config = llama.Config.from_gguf(metadata)
    assert (type(config.n_layers), config.n_layers, config.rope.theta) == (int, 5, 5000.0)


@pytest.mark.parametrize(
    ("values", "change", "message"),
    [
        (LLAMA, {"general.architecture": "qwen2"}, "general.architecture: expected 'llama', found 'qwen2'"),
        (LLAMA, {"general.architecture": MISSING}, "general.architecture: expected 'llama', found null"),
        (LLAMA, {"llama.attention.head_count": 0}, "llama.attention.head_count: .* found 0"),
        (LLAMA, {"llama.attention.head_count": 7}, "attention heads: 7 query heads do not divide"),
        *(
            (
                LLAMA,
                {f"llama.{key}": np.array([number, number + 1], np.int32)},
                f"llama.{key}: expected one number .* found {number} in layer 0 and {number + 1} in layer 1",
            )
            for key, number in (
                ("attention.head_count", 6),
                ("attention.head_count_kv", 2),
                ("feed_forward_length", 50),
            )
        ),
        (
            LLAMA,
            {"llama.attention.head_count_kv": [2, 0]},
            "expected one number .* found 2 in layer 0 and 0 in layer 1",
        ),
        (LLAMA, {"llama.attention.head_count_kv": [0, 0]}, "head_count_kv: expected an integer from 1 .* found 0"),
        (
            LLAMA,
            {"llama.attention.head_count_kv": [2]},
            "head_count_kv: expected one number, or 2, one a layer, found 1",
        ),
        (LLAMA, {"llama.attention.head_count_kv": np.zeros(0, np.int32)}, "one a layer, found 0"),
        (LLAMA, {"llama.attention.head_count_kv": ["2", "2"]}, "head_count_kv: expected an integer .* found '2'"),
        (LLAMA, {"llama.attention.head_count_kv": np.array([2.0, 2.0])}, "head_count_kv: expected an integer"),
        (LLAMA, {"llama.attention.head_count_kv": np.array([True, True])}, "head_count_kv: expected an integer"),
        (MIXTRAL, {"llama.expert_used_count": np.array([2, 1], np.uint32)}, "expert_used_count: expected one number"),
        (GPT2, {"gpt2.feed_forward_length": np.array([50, 40], np.uint32)}, "feed_forward_length: expected one number"),
        (GEMMA3, {"gemma3.attention.sliding_window_pattern": [True, False]}, "pattern: expected a number, or 3 flags"),
        (GEMMA3, {"gemma3.attention.sliding_window_pattern": [1, 1, 0]}, "pattern: expected a number, or 3 flags"),
        (LLAMA, {"llama.attention.value_length": 8}, "llama.attention.value_length: expected as many as"),
        (LLAMA, {"llama.attention.key_length": MISSING, "llama.embedding_length": 35}, "llama.attention.head_count: 6"),
        (LLAMA, {"llama.block_count": MISSING}, "llama.block_count: missing"),
        (LLAMA, {"llama.block_count": 1 << 40}, "llama.block_count: .* found 1099511627776"),
        (LLAMA, {"llama.context_length": True}, "llama.context_length: .* found true"),
        (LLAMA, {"llama.expert_count": 8}, "llama.expert_count: expected 0 or null"),
        (
            LLAMA,
            {"llama.expert_count": np.zeros(2, np.int32)},
            "llama.expert_count: expected 0 or null .* found a ndarray",
        ),
        (LLAMA, {"llama.block_count": np.zeros(2, np.int32)}, "llama.block_count: .* found a ndarray"),
        (LLAMA, {"llama.rope.dimension_count": 4}, r"llama.rope.dimension_count: expected the whole head \(10\)"),
        (LLAMA, {"llama.rope.scaling.type": "longrope"}, "llama.rope.scaling.type: .* found 'longrope'"),
        (
            LLAMA,
            {
                "llama.rope.scaling.type": "yarn",
                "llama.rope.scaling.factor": 4.0,
                "llama.rope.scaling.yarn_log_multiplier": 0.1,
            },
            "llama.rope.scaling.yarn_log_multiplier: expected 0 or null",
        ),
        (
            LLAMA,
            {"llama.rope.scaling.factor": 1e-300},
            "llama.rope.scaling.factor: expected 0 or at least 0.001, found",
        ),
        (LLAMA, {"llama.rope.freq_base": float("nan")}, "llama.rope.freq_base: .* found nan"),
        *(
            (
                LLAMA,
                {f"llama.{key}": 3},
                rf"llama.{key}: not supported \(found 3\); it would change the model's results",
            )
            for key in (
                "logit_scale",
                "residual_scale",
                "expert_shared_count",
                "attention.clamp_kqv",
                "ssm.conv_kernel",
                "attention.some_new_thing",
                "rope.some_new_thing",
                "experts_of_some_kind",
                "num_loops",
            )
        ),
        (LLAMA, {"llama.logit_scale": np.ones(2)}, "llama.logit_scale: not supported"),
        (LLAMA, {"llama.attention.causal": False}, "llama.attention.causal: expected true or null"),
        (GEMMA3, {"gemma3.attention.sliding_window": MISSING}, "gemma3.attention.sliding_window: missing"),
        (GEMMA3, {"gemma3.final_logit_softcapping": 30.0}, "gemma3.final_logit_softcapping: expected null"),
        (GPT2, {"gpt2.attention.head_count_kv": 1}, "gpt2.attention.head_count_kv: expected 3, as many as"),
        (GPT2, {"gpt2.use_parallel_residual": True}, "gpt2.use_parallel_residual: not supported"),
    ],
)
def test_bad_gguf_metadata(values: dict[str, Any], change: dict[str, Any], message: str) -> None:
    module = architecture_of(values, "config.json")
    metadata = {key: value for key, value in (gguf_metadata(values) | change).items() if value is not MISSING}
    with pytest.raises(ConfigError, match=message):
        module.Config.from_gguf(metadata)


@pytest.mark.parametrize(
    ("values", "keys"),
    [
        (LLAMA, {"attention.head_count": 6, "attention.head_count_kv": 2, "feed_forward_length": 50}),
        (GPT2, {"attention.head_count": 3, "attention.head_count_kv": 3, "feed_forward_length": 50}),
        (FALCON_NEW, {"attention.head_count": 6, "attention.head_count_kv": 2, "feed_forward_length": 144}),
        (MIXTRAL, {"attention.head_count_kv": 2, "expert_used_count": 2}),
        (GEMMA3, {"attention.head_count": 4, "attention.head_count_kv": 1}),
    ],
)
def test_gguf_numbers_of_each_layer(values: dict[str, Any], keys: dict[str, int]) -> None:
    """An array with one number repeated for each layer is equivalent to that number."""
    metadata = gguf_metadata(values)
    module, architecture = architecture_of(metadata, "m.gguf"), metadata["general.architecture"]
    expected = module.Config.from_gguf(metadata)
    for key, number in keys.items():
        for kind in (np.int32, np.uint64, list):
            numbers: Any = [number] * expected.n_layers
            found = numbers if kind is list else np.array(numbers, kind)
            assert module.Config.from_gguf({**metadata, f"{architecture}.{key}": found}) == expected


def test_gguf_layers_that_slide() -> None:
    metadata = gguf_metadata(GEMMA3)
    expected = gemma3.Config.from_gguf(metadata)
    flags = np.array(expected.sliding)
    assert flags.any()
    assert not flags.all()
    key = "gemma3.attention.sliding_window_pattern"
    assert gemma3.Config.from_gguf({**metadata, key: flags}) == expected
    assert gemma3.Config.from_gguf({**metadata, key: ~flags}).sliding == tuple(not flag for flag in expected.sliding)


def test_gguf_unknown_keys_are_warnings(caplog: pytest.LogCaptureFixture) -> None:
    metadata = gguf_metadata(LLAMA)
    expected = llama.Config.from_gguf(metadata)
    neutral = {
        "logit_scale": 1.0, "residual_scale": np.float32(1), "embedding_scale": 1, "attention.clamp_kqv": 0.0,
        "expert_shared_count": 0, "nextn_predict_layers": 0, "rope.scaling.finetuned": False,
    }  # fmt: skip
    assert llama.Config.from_gguf(metadata | {f"llama.{key}": value for key, value in neutral.items()}) == expected
    assert not caplog.records
    new = {"llama.converter_note": "x", "llama.some_new_thing": np.zeros(3), "gemma3.attention.new": 1}
    assert llama.Config.from_gguf(metadata | new) == expected
    assert [(record.name, record.levelname, record.getMessage()) for record in caplog.records] == [
        (
            "pyml.load",
            "WARNING",
            "GGUF metadata: llama.converter_note (found 'x'), llama.some_new_thing (found a ndarray): unknown keys, "
            "ignored",
        )
    ]
    caplog.clear()
    llama.Config.from_gguf(metadata | {f"llama.key{number}": number for number in range(1000)})
    (record,) = caplog.records
    assert record.getMessage().endswith("llama.key2 (found 2) and 997 more: unknown keys, ignored")
    caplog.clear()
    llama.Config.from_gguf(metadata | {"llama.\x1b[31m\n" + "k" * 5000: 1})
    with pytest.raises(ConfigError) as caught:
        llama.Config.from_gguf(metadata | {"llama.rope.\x1b[31m\n" + "k" * 5000: 1})
    for message in (caplog.records[0].getMessage(), str(caught.value)):
        assert r"\x1b[31m\nkkk" in message
        assert message.isprintable()
        assert len(message) < 300


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (
            {"general.type": "adapter", "general.architecture": "llama"},
            r"'adapter': an adapter \(LoRA\), which needs its base model",
        ),
        ({"general.architecture": "llama", "adapter.type": "lora"}, r"'adapter': an adapter \(LoRA\)"),
        ({"general.type": "imatrix", "general.name": "x"}, "'imatrix': statistics for quantising a model"),
        ({"general.type": "mmproj", "general.architecture": "clip"}, "'mmproj': the part of a model that reads images"),
        ({"general.name": "x"}, "architecture: expected one of gpt2, .*, found null"),
    ],
)
def test_gguf_files_that_are_no_models(metadata: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^m\.gguf: general\..*{message}"):
        architecture_of(metadata, "m.gguf")


def test_unknown_keys_can_be_allowed(caplog: pytest.LogCaptureFixture) -> None:
    metadata = gguf_metadata(LLAMA)
    more = {"llama.ssm.conv_kernel": 4, "llama.logit_scale": 2.0}
    assert llama.Config.from_gguf({**metadata, **more}, allow_unknown=True) == llama.Config.from_gguf(metadata)
    first, second = (record.message for record in caplog.records)
    assert "llama.ssm.conv_kernel: not supported (found 4)" in first
    assert second.endswith("it would change the model's results: ignored, because unknown keys are allowed")
