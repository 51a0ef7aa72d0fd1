"""Published configurations are understood."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from nn_models import FALCON_NEW, QWEN2, QWEN3, gguf_metadata
from published_configs import (
    AYA_EXPANSE_8B,
    COMMAND_R7B,
    ERNIE_4_5_300M,
    EXAONE_4_1B,
    EXAONE_4_32B,
    FALCON_7B,
    GEMMA2_9B,
    GEMMA_4B,
    GEMMA_270M,
    GLM4_9B_0414,
    GLM_EDGE_1_5B,
    GPT2_HUB,
    HELIUM_1_PREVIEW,
    LLAMA_3_2,
    MISTRAL_7B,
    MIXTRAL_8X7B,
    PHI3_128K,
    PYTHIA_70M,
    QWEN3_30B_A3B,
    SMOLLM2,
    SMOLLM3_3B,
    STABLELM_2,
    STARCODER2_3B,
)

from pyml_nn.config.hf_file import repeats_built_ins
from pyml_nn.errors import ConfigError
from pyml_nn.layers.rope import LinearScaling, Llama3Scaling, LongScaling, Rope, YarnScaling
from pyml_nn.models import (
    ARCHITECTURES,
    GGUF_ARCHITECTURES,
    architecture_of,
    cohere,
    cohere2,
    ernie4_5,
    exaone4,
    falcon,
    gemma2,
    gemma3,
    glm,
    glm4,
    gpt2,
    gpt_neox,
    helium,
    llama,
    mistral,
    mixtral,
    phi3,
    qwen2,
    qwen3,
    qwen3_moe,
    smollm3,
    stablelm,
    starcoder2,
)


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


def test_qwen3_moe() -> None:
    config = qwen3_moe.Config.from_hf(QWEN3_30B_A3B)
    assert (config.n_experts, config.n_chosen, config.expert_width, config.intermediate_size) == (128, 8, 768, 6144)
    assert (config.window, config.normalize, config.rope) == (0, True, Rope(128, 1e6))
    assert config.sparse == (True,) * 48
    mixed = qwen3_moe.Config.from_hf({**QWEN3_30B_A3B, "decoder_sparse_step": 2, "mlp_only_layers": [1]})
    assert mixed.sparse == tuple(layer % 2 == 1 and layer != 1 for layer in range(48))
    window = {"use_sliding_window": True, "sliding_window": 4096}
    assert qwen3_moe.Config.from_hf({**QWEN3_30B_A3B, **window}).window == 4096
    renamed = {key: value for key, value in QWEN3_30B_A3B.items() if key != "num_experts"}
    assert qwen3_moe.Config.from_hf({**renamed, "num_local_experts": 64}).n_experts == 64  # transformers 5
    for change, message in (
        ({"num_experts_per_tok": 129}, "experts: 129 are chosen of 128"),
        ({"mlp_only_layers": [48]}, "mlp_only_layers: expected a list of layers from 0 to 47"),
        ({"decoder_sparse_step": 0}, "decoder_sparse_step: expected an integer from 1 to 1024, found 0"),
        ({"shared_expert_intermediate_size": 8}, "shared_expert_intermediate_size: unknown key"),
    ):
        with pytest.raises(ConfigError, match=message):
            qwen3_moe.Config.from_hf({**QWEN3_30B_A3B, **change})


def test_smollm3() -> None:
    config = smollm3.Config.from_hf(SMOLLM3_3B)
    assert config.rotated == (True, True, True, False) * 9
    assert (config.windows, config.rope, config.tie_word_embeddings) == ((0,) * 36, Rope(128, 5e6), True)
    by_interval = {key: value for key, value in SMOLLM3_3B.items() if key not in ("no_rope_layers", "layer_types")}
    assert smollm3.Config.from_hf(by_interval) == config
    window = smollm3.Config.from_hf({**by_interval, "use_sliding_window": True, "sliding_window": 64})
    assert window.windows == (0, 0, 0, 64) * 9
    for change, message in (
        ({"no_rope_layers": [1, 0]}, "no_rope_layers: expected a list of 36 of 0 and 1"),
        ({"layer_types": ["sliding_attention"] * 36}, "layer_types: expected no sliding_attention"),
    ):
        with pytest.raises(ConfigError, match=message):
            smollm3.Config.from_hf({**SMOLLM3_3B, **change})


def test_ernie4_5() -> None:
    config = ernie4_5.Config.from_hf(ERNIE_4_5_300M)
    assert (config.head_dim, config.n_kv_heads, config.rope, config.bias) == (128, 2, Rope(128, 5e5), False)


def test_starcoder2() -> None:
    config = starcoder2.Config.from_hf(STARCODER2_3B)
    assert (config.window, config.bias, config.activation, config.norm_eps) == (4096, True, "gelu_tanh", 1e-5)
    assert starcoder2.Config.from_hf({**STARCODER2_3B, "sliding_window": None}).window == 0
    with pytest.raises(ConfigError, match="norm_type: expected 'layer_norm'"):
        starcoder2.Config.from_hf({**STARCODER2_3B, "norm_type": "rms"})


def test_glm() -> None:
    config = glm.Config.from_hf(GLM_EDGE_1_5B)
    assert (config.head_dim, config.rope, config.qkv_bias) == (128, Rope(128, 1e4), False)
    assert (config.n_kv_heads, config.norm_eps, config.tie_word_embeddings) == (4, 1e-5, True)


def test_glm4() -> None:
    config = glm4.Config.from_hf(GLM4_9B_0414)
    assert (config.head_dim, config.rope, config.qkv_bias) == (128, Rope(64, 1e4), True)
    absent = {
        key: value for key, value in GLM4_9B_0414.items() if key not in ("partial_rotary_factor", "attention_bias")
    }
    assert glm4.Config.from_hf(absent) == config  # transformers' defaults


def test_cohere() -> None:
    config = cohere.Config.from_hf(AYA_EXPANSE_8B)
    assert (config.head_dim, config.n_kv_heads, config.rope) == (128, 8, Rope(128, 1e4))
    assert (config.logit_scale, config.attention_bias, config.tie_word_embeddings) == (0.125, False, True)
    absent = {key: value for key, value in AYA_EXPANSE_8B.items() if key not in ("rope_theta", "logit_scale")}
    defaults = cohere.Config.from_hf(absent)
    assert (defaults.rope.theta, defaults.logit_scale) == (5e5, 0.0625)  # transformers' defaults


def test_cohere2() -> None:
    config = cohere2.Config.from_hf(COMMAND_R7B)
    assert config.windows == (4096, 4096, 4096, 0) * 8
    assert (config.rope, config.logit_scale, config.tie_word_embeddings) == (Rope(128, 5e4), 0.25, True)
    old = {key: value for key, value in COMMAND_R7B.items() if key not in ("sliding_window_pattern", "layer_switch")}
    assert cohere2.Config.from_hf(old) == config
    types = cohere2.Config.from_hf({**old, "layer_types": ["full_attention", "sliding_attention"] * 16})
    assert types.windows == (0, 4096) * 16


def test_exaone4() -> None:
    config = exaone4.Config.from_hf(EXAONE_4_32B)
    assert config.windows == (4096, 4096, 4096, 0) * 16
    assert config.rotated == (True, True, True, False) * 16
    by_pattern = {key: value for key, value in EXAONE_4_32B.items() if key != "layer_types"}
    assert exaone4.Config.from_hf(by_pattern) == config
    assert exaone4.Config.from_hf({**by_pattern, "sliding_window_pattern": 2}).windows == (4096, 0) * 32
    small = exaone4.Config.from_hf(EXAONE_4_1B)
    assert (small.windows, small.rotated, small.tie_word_embeddings) == ((0,) * 30, (True,) * 30, True)
    metadata = {key: value for key, value in gguf_metadata(EXAONE_4_1B).items() if "sliding" not in key}
    assert exaone4.Config.from_gguf(metadata).rotated == (True,) * 30


def test_helium() -> None:
    config = helium.Config.from_hf(HELIUM_1_PREVIEW)
    assert (config.head_dim, config.rope, config.norm_eps) == (128, Rope(128, 1e5), 1e-8)
    absent = {key: value for key, value in HELIUM_1_PREVIEW.items() if key not in ("rope_theta", "rms_norm_eps")}
    assert helium.Config.from_hf(absent) == config  # transformers' defaults


def test_gpt_neox() -> None:
    config = gpt_neox.Config.from_hf(PYTHIA_70M)
    assert (config.rope, config.parallel, config.activation) == (Rope(16, 10_000.0), True, "gelu_erf")
    new = {key: value for key, value in PYTHIA_70M.items() if not key.startswith("rotary")}
    new["rope_parameters"] = {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5}
    assert gpt_neox.Config.from_hf(new).rope == Rope(32, 500.0)  # transformers 5
    for change, message in (
        ({"num_attention_heads": 7}, "num_attention_heads: 7 does not divide hidden_size"),
        ({"num_key_value_heads": 2}, "attention heads: expected 8 key/value heads, found 2"),
        ({"head_dim": 32}, "hidden size: 512 does not divide into 8 attention heads"),
    ):
        with pytest.raises(ConfigError, match=message):
            gpt_neox.Config.from_hf({**PYTHIA_70M, **change})


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


def test_stablelm() -> None:
    config = stablelm.Config.from_hf(STABLELM_2)
    assert (config.rope, config.norm_eps, config.parallel, config.qkv_bias) == (Rope(16, 10_000.0), 1e-5, False, True)
    absent = {key: value for key, value in STABLELM_2.items() if key != "partial_rotary_factor"}
    assert stablelm.Config.from_hf(absent) == config  # transformers' default
    assert stablelm.Config.from_hf({**STABLELM_2, "partial_rotary_factor": 1.0}).rope.dim == 64


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
    with pytest.raises(ConfigError, match=r"model_type: expected a model that writes texts, found 'bert', an encoder"):
        architecture_of({"model_type": "bert"}, "config.json")
    for name in (None, "t5", 7, ["llama"]):
        with pytest.raises(ConfigError, match=r"model_type: expected one of gpt2, "):
            architecture_of({"model_type": name}, "config.json")
    for name in ("mistral", "gemma3_text", "bert", None):
        with pytest.raises(ConfigError, match=r"general\.architecture: expected one of gpt2, "):
            architecture_of({"general.architecture": name}, "m.gguf")
    for module in {*ARCHITECTURES.values(), *GGUF_ARCHITECTURES.values()}:
        assert callable(module.Config.from_hf)
        assert callable(module.Config.from_gguf)
        assert callable(module.Model.specs)
