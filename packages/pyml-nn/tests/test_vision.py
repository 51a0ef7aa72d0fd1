"""Text models inside of models that also read images: their configuration, and the weights beside them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from nn_models import CONFIGS, LLAMA, gguf_metadata, gguf_weights, make, random_weights

from pyml_nn.errors import ConfigError
from pyml_nn.models import architecture_of, llama, mistral, qwen2, qwen3
from pyml_nn.weights import ArrayWeights

IDS = list(range(20))
QWEN_2_5_VL_3B: dict[str, Any] = {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"], "attention_dropout": 0.0, "bos_token_id": 151643,
    "eos_token_id": 151645, "vision_start_token_id": 151652, "vision_end_token_id": 151653, "vision_token_id": 151654,
    "image_token_id": 151655, "video_token_id": 151656, "hidden_act": "silu", "hidden_size": 2048,
    "initializer_range": 0.02, "intermediate_size": 11008, "max_position_embeddings": 128000, "max_window_layers": 70,
    "model_type": "qwen2_5_vl", "num_attention_heads": 16, "num_hidden_layers": 36, "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": True,
    "torch_dtype": "bfloat16", "transformers_version": "4.41.2", "use_cache": True, "use_sliding_window": False,
    "vision_config": {"depth": 32, "hidden_act": "silu", "hidden_size": 1280},
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}, "vocab_size": 151936,
}  # fmt: skip
QWEN3_VL_4B: dict[str, Any] = {
    "architectures": ["Qwen3VLForConditionalGeneration"], "image_token_id": 151655, "model_type": "qwen3_vl",
    "text_config": {
        "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 151643, "dtype": "bfloat16",
        "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu", "hidden_size": 2560, "initializer_range": 0.02,
        "intermediate_size": 9728, "max_position_embeddings": 262144, "model_type": "qwen3_vl_text",
        "num_attention_heads": 32, "num_hidden_layers": 36, "num_key_value_heads": 8, "rms_norm_eps": 1e-06,
        "rope_scaling": {"mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"},
        "rope_theta": 5000000, "tie_word_embeddings": True, "use_cache": True, "vocab_size": 151936,
    },
    "tie_word_embeddings": True, "transformers_version": "4.57.0.dev0", "video_token_id": 151656,
    "vision_config": {"depth": 24}, "vision_end_token_id": 151653, "vision_start_token_id": 151652,
}  # fmt: skip
LLAVA_7B: dict[str, Any] = {
    "architectures": ["LlavaForConditionalGeneration"], "ignore_index": -100, "image_token_index": 32000,
    "model_type": "llava", "pad_token_id": 32001, "projector_hidden_act": "gelu",
    "text_config": {"_name_or_path": "lmsys/vicuna-7b-v1.5", "architectures": ["LlamaForCausalLM"],
                    "max_position_embeddings": 4096, "model_type": "llama", "rms_norm_eps": 1e-05,
                    "torch_dtype": "float16", "vocab_size": 32064},
    "tie_word_embeddings": False, "torch_dtype": "float16", "transformers_version": "4.36.0.dev0",
    "vision_config": {"hidden_size": 1024}, "vision_feature_layer": -2, "vision_feature_select_strategy": "default",
    "vocab_size": 32064,
}  # fmt: skip
LLAVA_MISTRAL = {
    **LLAVA_7B, "model_type": "llava_next", "image_grid_pinpoints": [[336, 672]], "use_image_newline_parameter": True,
    "text_config": {"intermediate_size": 14336, "max_position_embeddings": 32768, "model_type": "mistral",
                    "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "sliding_window": None,
                    "vocab_size": 32064},
}  # fmt: skip


def wrapped(kind: str, text: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"model_type": kind, "text_config": text, "vision_config": {"hidden_size": 3}, **more}


def read(values: dict[str, Any]) -> Any:
    return architecture_of(values, "config.json").Config.from_hf(values)


def logits(model: Any) -> Any:
    return model.forward([(model.new_cache(), IDS, range(len(IDS)))])[0]


def test_qwen_vl_is_qwen_with_plain_rope() -> None:
    plain = {
        key: value for key, value in QWEN_2_5_VL_3B.items() if key not in ("rope_scaling", "vision_config")
    }  # fmt: skip
    expected = qwen2.Config.from_hf({**plain, "model_type": "qwen2"})
    assert read(QWEN_2_5_VL_3B) == expected
    assert expected.tie_word_embeddings
    text = {**plain, "model_type": "qwen2_5_vl_text", "rope_scaling": {"rope_type": "default", "mrope_section": [1]}}
    assert read({**QWEN_2_5_VL_3B, "text_config": text, "rope_scaling": None}) == expected
    text = {key: value for key, value in QWEN3_VL_4B["text_config"].items() if key != "rope_scaling"}
    assert read(QWEN3_VL_4B) == qwen3.Config.from_hf({**text, "model_type": "qwen3"})


def test_llava_takes_the_defaults_of_transformers() -> None:
    config = read(LLAVA_7B)
    assert isinstance(config, llama.Config)
    assert (config.hidden_size, config.intermediate_size, config.n_layers, config.n_kv_heads) == (4096, 11_008, 32, 32)
    config = read(LLAVA_MISTRAL)
    assert isinstance(config, mistral.Config)
    assert (config.n_heads, config.n_kv_heads, config.window, config.vocab_size) == (32, 8, 0, 32_064)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (wrapped("llava", {"model_type": "bert"}), r"text_config: model_type: expected one of llama, .* found 'bert'"),
        (wrapped("llava", {**LLAMA, "model_type": "gemma3"}), "text_config: model_type: .* found 'gemma3'"),
        ({"model_type": "llava"}, "text_config: expected an object of keys and values, found null"),
        (wrapped("llava", {**LLAMA, "logit_cap": 3.0}), "text_config: logit_cap: unknown key"),
        (wrapped("llava", LLAMA, logit_scale=3.0), "config.json: logit_scale: unknown key"),
        (wrapped("llava", LLAMA, num_attention_heads=3), "config.json: num_attention_heads: unknown key"),
        (wrapped("llava", LLAMA, tie_word_embeddings=1), "tie_word_embeddings: expected true or false, found 1"),
        (wrapped("llava", LLAMA, auto_map={"AutoModel": "x.Y"}), "auto_map: refused"),
        (wrapped("llava", LLAMA, quantization_config={"quant_method": "awq"}), "quantised with AWQ"),
        (wrapped("llava", {**LLAMA, "rope_scaling": {"rope_type": "default", "mrope_section": [1]}}), "mrope_section"),
        ({**QWEN_2_5_VL_3B, "rope_scaling": {"type": "mrope", "factor": 2.0}}, "rope_scaling: factor: unknown key"),
    ],
)  # fmt: skip
def test_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(values)


@pytest.mark.parametrize("kind", ["llava", "mistral3", "idefics3"])
@pytest.mark.parametrize(
    "prefix", ["", "model.", "model.language_model.", "language_model.model.", "model.text_model."]
)
def test_weights_of_towers_are_passed_over(kind: str, prefix: str) -> None:
    weights = random_weights(LLAMA)
    values = wrapped(kind, LLAMA, tie_word_embeddings=LLAMA.get("tie_word_embeddings", False))
    module = architecture_of(values, "config.json")
    one = np.ones(3, np.float32)
    towers = ("vision_tower.x", "model.vision_model.a.b", "visual.x", "model.visual.x", "model.image_newline",
              "multi_modal_projector.linear_1.bias", "model.connector.x")  # fmt: skip
    found = {key if key == "lm_head.weight" else prefix + key: array for key, array in weights.items()}
    source = ArrayWeights(found | dict.fromkeys(towers, one))
    model = module.Model(module.Config.from_hf(values), source, dtype="f32", threads=2)
    np.testing.assert_array_equal(logits(model), logits(make(LLAMA, weights=weights)))


@pytest.mark.parametrize(("name", "alias"), [("qwen2", "qwen2vl"), ("qwen3", "qwen3vl"), ("qwen3_moe", "qwen3vlmoe")])
def test_gguf_names(name: str, alias: str) -> None:
    values = CONFIGS[name]
    metadata = gguf_metadata(values)
    plain = architecture_of(metadata, "m.gguf")
    own = metadata["general.architecture"]
    renamed = {key.replace(f"{own}.", f"{alias}.", 1): value for key, value in metadata.items()}
    renamed |= {"general.architecture": alias, f"{alias}.rope.dimension_sections": np.array([1, 2, 2, 0], np.int32)}
    renamed[f"{alias}.n_deepstack_layers"] = 3
    module = architecture_of(renamed, "m.gguf")
    assert module.Config.from_gguf(renamed) == plain.Config.from_gguf(metadata)
    assert gguf_weights(values, random_weights(values))
