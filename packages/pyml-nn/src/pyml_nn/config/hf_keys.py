"""Keys of ``config.json`` that no architecture reads: the harmless ones, and those that may change the mathematics.

transformers ignores unknown keys. Some of them come from tools that train, convert or serve a model; others belong to
other engines, or to newer versions of an architecture.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any

from .fields import same

_LONGEST = 100  # characters of a key that a pattern may match

# fmt: off
_HARMLESS = frozenset({
    "_attn_implementation", "_attn_implementation_autoset", "_attn_implementation_internal", "_commit_hash",
    "_experts_implementation", "_experts_implementation_internal", "_flash_attn_2_enabled", "_model_name_or_path",
    "_name_or_path", "_num_labels", "architectures", "attn_implementation", "bad_words_ids", "begin_suppress_tokens",
    "cache_implementation", "chunk_size_feed_forward", "diversity_penalty", "do_sample", "dtype", "early_stopping",
    "encoder_no_repeat_ngram_size", "experts_implementation", "exponential_decay_length_penalty", "finetuning_task",
    "id2label", "is_decoder", "is_llama_config", "label2id", "length_penalty", "max_length", "max_new_tokens",
    "min_length", "model_type", "n_special", "name_or_path", "no_repeat_ngram_size", "num_beam_groups", "num_beams",
    "num_labels", "num_return_sequences", "output_attentions", "output_hidden_states", "output_logits", "output_past",
    "output_scores", "predict_special_tokens", "prefix", "pretraining_tp", "problem_type", "remove_invalid_values",
    "repetition_penalty", "return_dict", "return_dict_in_generate", "suppress_tokens", "task_specific_params",
    "temperature", "tie_encoder_decoder", "tie_last_hidden_states", "top_k", "top_p", "torch_dtype", "torchscript",
    "transformers.js_config", "typical_p", "use_bfloat16", "use_cache", "use_return_dict",
})
# fmt: on
"""Keys that do not affect the model's logits for given ids."""

_HARMLESS_PATTERNS = (
    r"(unsloth|axolotl|llamafactory|mergekit|deepspeed|fsdp|wandb|onnx|lora|peft)(_\w+)?",
    r"(\w+_)?(dropout|pdrop)(_\w+)?",
    r"(\w+_)?(loss|losses)(_\w+)?",
    r"(\w+_)?initiali[sz]er(_\w+)?|init_\w+",
    r"(\w+_)?tokens?_(id|ids|index)|(bos|eos|pad|unk|sep|cls|mask)_token",
    r"(use_)?(flash|fused|sdpa|xformers|memory_efficient)(_\w+)?",
    r"((model_)?max_|train_|training_|pretraining_)?(seq|sequence|context)_?(len|length)|model_max_length",
    r"tokenizer(_\w+)?|vocab_file|merges_file|chat_template(_\w+)?",
    r"(\w+_)?batch_size|(num_)?(train|eval|training)(_\w+)?|epochs?|global_steps?|(local_)?rank|world_size|(\w+_)?seed",
    r"learning_rate|lr(_\w+)?|weight_decay|warmup_\w+|adam_\w+|optim(izer)?(_\w+)?|max_grad_norm|gradient_\w+",
    r"(base_)?model_(name|id|version|card|author|parallel)(_\w+)?|base_model|(\w+_)?version",
    r"license(_\w+)?|languages?|tags|authors?|description|created(_\w+)?|date|datasets?",
    r"num_nextn_predict_layers",  # layers after the last one, which the names of weights show
)  # fmt: skip
"""Patterns of such keys: tools and their versions, training, lengths of its texts, special tokens, descriptions."""

_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "alibi": (False,), "apply_query_key_layer_scaling": (False, True), "attention_bias": (False,),
    "attention_multiplier": (), "attn_logit_softcapping": (), "bias": (False,), "causal": (True,), "clip_qkv": (),
    "embedding_multiplier": (1,), "final_logit_softcapping": (), "full_attn_mod": (1,), "interpolate_factor": (1,),
    "is_causal": (True,), "lm_head_bias": (False,), "logit_scale": (1,), "logits_scaling": (1,), "mlp_bias": (False,),
    "normalize_attention_scores": (True,), "num_experts": (0,), "num_local_experts": (0,), "parallel_attn": (False,),
    "partial_rotary_factor": (1,), "qk_layernorm": (False,), "qkv_bias": (False,), "residual_multiplier": (1,),
    "rope_interleaved": (False,), "rotary_pct": (1,), "scale_emb": (1,), "tie_embeddings": (),
    "transformers_weights": (), "use_alibi": (False,), "use_bias": (False,), "use_bidirectional_attention": (False,),
    "use_mrope": (False,), "use_mup": (False,), "use_parallel_residual": (False,), "use_qk_norm": (False,),
    "use_rope": (True,), "use_sliding_window": (False,),
}  # fmt: skip
"""Keys that may affect the logits, with the values that do not, in architectures that do not read them."""

_ROOTS = (
    "activ", "attent", "attn", "bias", "decoder", "embed", "expert", "factor", "head", "interleav", "layer", "logit",
    "mask", "moe", "multipl", "norm", "parallel", "pattern", "position", "quant", "query", "residual", "rope", "rotary",
    "rout", "scal", "slid", "softcap", "softmax", "sparse", "theta", "weight", "window",
)  # fmt: skip
_WORDS = frozenset((
    "act", "alpha", "base", "beta", "blocks", "cap", "causal", "chunk", "conv", "dense", "depth", "eps", "epsilon",
    "ffn", "freq", "gamma", "gate", "gated", "global", "glu", "gqa", "groups", "k", "kernel", "kv", "ln", "local",
    "loops", "mla", "mlp", "mqa", "mup", "ntk", "o", "pos", "q", "qk", "qkv", "rms", "sink", "sinks", "ssm", "temp",
    "tie", "tied", "untied", "v", "yarn",
))  # fmt: skip
"""Parts of the names of keys that affect the logits without changing the names or shapes of weights."""


def is_harmless(key: str, value: Any) -> bool:
    """Whether a key is known not to affect the logits, in general or with this value."""
    if key in _NEUTRAL:
        return any(same(value, good) for good in _NEUTRAL[key])
    return key in _HARMLESS or (len(key) <= _LONGEST and _harmless_pattern().fullmatch(key) is not None)


@cache
def _harmless_pattern() -> re.Pattern[str]:
    """All patterns in one, compiled on first use, because that is slow."""
    return re.compile("|".join(_HARMLESS_PATTERNS))


def may_matter(key: str, value: Any) -> bool:
    """Whether a key that is not harmless may affect the logits.

    It does not if its value is false or empty, or if no part of its name is a term for a part of a model.
    """
    if key in _NEUTRAL:
        return True
    if value is False or (isinstance(value, Collection) and not value):
        return False
    name = key.lower()
    return any(root in name for root in _ROOTS) or not _WORDS.isdisjoint(re.split(r"[^a-z]+", name))


_SCHEMES = {
    "aqlm": "AQLM", "auto-round": "AutoRound", "awq": "AWQ", "bitnet": "BitNet", "compressed-tensors":
    "compressed-tensors", "eetq": "EETQ", "exl2": "EXL2", "exl3": "EXL3", "fbgemm_fp8": "FP8 (FBGEMM)", "fp8": "FP8",
    "fp_quant": "FP-Quant", "gptq": "GPTQ", "higgs": "HIGGS", "hqq": "HQQ", "modelopt": "ModelOpt", "mxfp4": "MXFP4",
    "quanto": "Quanto", "quark": "Quark", "spqr": "SpQR", "torchao": "torchao", "vptq": "VPTQ",
}  # fmt: skip
"""``quant_method`` -> name of the scheme."""

_MARKS = (
    (("load_in_4bit", "load_in_8bit", "_load_in_4bit", "_load_in_8bit"), "bitsandbytes"),
    (("config_groups", "sparsity_config"), "compressed-tensors"),
    (("quant_algo", "producer"), "ModelOpt"),
)
"""Keys that only one scheme has -> its name; for configurations without ``quant_method``."""

_QUANTISATION = ("quantization_config", "compression_config", "quantization")


def quantised_with(values: Mapping[str, Any]) -> tuple[str, list[str]] | None:
    """Return the key of a quantisation scheme in a configuration, and its description: ``["with AWQ", "(4 bits)"]``."""
    for key in _QUANTISATION:
        found = values.get(key)
        if found is not None:
            section = found if isinstance(found, Mapping) else {}
            scheme, bits = _scheme(section, "quantization" in values), section.get("bits", section.get("w_bit"))
            described = [f"with {scheme}"] if scheme else []
            return key, [*described, f"({bits} bits)"] if type(bits) is int and 0 < bits < 64 else described
    return None


def _scheme(section: Mapping[str, Any], mlx: bool) -> str:
    method = section.get("quant_method")
    if isinstance(method, str) and method:
        return _SCHEMES.get(method, "bitsandbytes" if method.startswith("bitsandbytes") else f"{method[:40]!r}")
    for names, scheme in _MARKS:
        if any(name in section for name in names):
            return scheme
    return "MLX" if mlx and "group_size" in section else ""
