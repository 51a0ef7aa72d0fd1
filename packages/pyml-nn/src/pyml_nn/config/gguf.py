"""Reading a model's configuration from GGUF metadata: the sizes, and what becomes of keys that nothing has read."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any

from ..errors import ConfigError, show
from .dimensions import MAX_CONTEXT, MAX_HEADS, MAX_LAYERS, MAX_VOCAB, MAX_WIDTH, Sizes
from .fields import Fields

_log = logging.getLogger("pyml.load")


_TYPES = {
    "adapter": "an adapter (LoRA), which needs its base model: merge it into that, as llama-export-lora does",
    "imatrix": "statistics for quantising a model",
    "mmproj": "the part of a model that reads images or sound: give the file with the text model",
}


def check_general_type(metadata: Mapping[str, Any], where: str) -> None:
    """Refuse a GGUF file that is no model.

    Raises:
        ConfigError: says what it is (``general.type``).
    """
    kind = metadata.get("general.type", "adapter" if "adapter.type" in metadata else "model")
    if isinstance(kind, str) and kind in _TYPES:
        raise ConfigError(f"{where}: general.type: expected 'model', found {kind!r}: {_TYPES[kind]}")


def gguf_fields(metadata: Mapping[str, Any], architecture: str, experts: bool = False) -> Fields:
    """The fields ``<architecture>.*`` of GGUF metadata; ConfigError if the file is of another architecture.

    Unless ``experts`` are expected, they are refused.
    """
    found = metadata.get("general.architecture")
    if found != architecture:
        raise ConfigError(f"GGUF metadata: general.architecture: expected {architecture!r}, found {show(found)}")
    prefix = architecture + "."
    values = {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)}
    fields = Fields(values, "GGUF metadata", prefix)
    fields.fixed("attention.causal", True)
    if not experts:
        fields.fixed("expert_count", 0)
        fields.fixed("expert_used_count", 0)
    return fields


def gguf_sizes(fields: Fields, metadata: Mapping[str, Any], eps: str = "layer_norm_rms_epsilon") -> Sizes:
    """The sizes in GGUF metadata, whose head is tied if there is none; ``eps`` is the key of the norms' epsilon."""
    n_layers = fields.integer("block_count", 1, MAX_LAYERS)
    hidden_size = fields.integer("embedding_length", 1, MAX_WIDTH)
    n_heads = layers_integer(fields, n_layers, "attention.head_count", MAX_HEADS)
    return Sizes(
        vocab_size=gguf_vocab_size(fields, metadata),
        context_length=fields.integer("context_length", 1, MAX_CONTEXT),
        hidden_size=hidden_size,
        intermediate_size=layers_integer(fields, n_layers, "feed_forward_length", MAX_WIDTH),
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=layers_integer(fields, n_layers, "attention.head_count_kv", MAX_HEADS, default=n_heads),
        head_dim=gguf_head_dim(fields, hidden_size, n_heads),
        norm_eps=fields.number(f"attention.{eps}", 0, 1),
        tie_word_embeddings=True,
    )


def layers_integer(fields: Fields, n_layers: int, key: str, high: int, default: int | None = None) -> int:
    """An integer from 1 to ``high`` that all layers share: one number, or an array of the same number for each.

    Raises:
        ConfigError: it is missing without a default, out of range, or not the same in all layers.
    """
    value = fields.raw(key)
    if not isinstance(value, Collection) or isinstance(value, str | bytes):
        return fields.integer(key, 1, high, default)
    numbers = list(value)
    if len(numbers) != n_layers:
        raise fields.error(key, f"expected one number, or {n_layers}, one a layer, found {len(numbers)}")
    other = next((layer for layer, number in enumerate(numbers) if number != numbers[0]), None)
    if other is not None:
        raise fields.error(
            key,
            "expected the same number in all layers (pyml supports nothing else here), found "
            f"{show(numbers[0])} in layer 0 and {show(numbers[other])} in layer {other}",
        )
    return fields.checked_integer(key, numbers[0], 1, high)


def gguf_head_dim(fields: Fields, hidden_size: int, n_heads: int) -> int:
    """``attention.key_length``, else the hidden size divided by the heads; values must be as wide as keys."""
    if not fields.has("attention.key_length") and hidden_size % n_heads:
        raise fields.error("attention.head_count", f"{n_heads} does not divide embedding_length ({hidden_size})")
    head_dim = fields.integer("attention.key_length", 1, MAX_WIDTH, default=max(1, hidden_size // n_heads))
    if fields.integer("attention.value_length", 1, MAX_WIDTH, default=head_dim) != head_dim:
        raise fields.error("attention.value_length", f"expected as many as attention.key_length ({head_dim})")
    return head_dim


def gguf_vocab_size(fields: Fields, metadata: Mapping[str, Any]) -> int:
    """Size of the vocabulary: ``<architecture>.vocab_size``, else the number of the tokenizer's tokens."""
    tokens = metadata.get("tokenizer.ggml.tokens")
    count = len(tokens) if isinstance(tokens, Collection) and not isinstance(tokens, str) else None
    return fields.integer("vocab_size", 1, MAX_VOCAB, default=count)


def close_gguf(fields: Fields) -> None:
    """Refuse what nothing has read and what may change the mathematics; warn of other keys, which are passed over.

    Converters write new keys into files of old architectures. Those that decide what a model computes are known by
    their name or by the group that they are in.

    Raises:
        ConfigError: such a key has another value than the one that leaves everything as it is.
    """
    unknown = []
    for key, value in fields.left():
        if key in _HARMLESS or (key in _NEUTRAL and not isinstance(value, Collection) and value == _NEUTRAL[key]):
            continue
        if key in _NEUTRAL or key in _COMPUTED or key.startswith(_GROUPS):
            raise fields.error(key, f"not supported (found {show(value)}); it would change what the model computes")
        unknown.append(f"{fields.named(key)} (found {show(value)})")
    if unknown:
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        keys = "unknown key" if len(unknown) == 1 else "unknown keys"
        _log.warning("%s: %s%s: %s, ignored", fields.where, ", ".join(unknown[:3]), more, keys)


_HARMLESS = frozenset({"rope.scaling.finetuned", "rope.scaling.original_context_length", "tensor_data_layout"})
"""Keys that change nothing in the supported cases."""

_NEUTRAL: Mapping[str, float] = {
    "attention.clamp_kqv": 0, "attention.max_alibi_bias": 0, "attention.scale": 0, "attention.sliding_window": 0,
    "attn_logit_softcapping": 0, "embedding_scale": 1, "expert_group_count": 0, "expert_group_used_count": 0,
    "expert_shared_count": 0, "final_logit_softcapping": 0, "leading_dense_block_count": 0, "logit_scale": 1,
    "nextn_predict_layers": 0, "residual_scale": 1, "rope.scaling.attn_factor": 1,
}  # fmt: skip
"""Keys that change what a model computes, but with this value."""

_GROUPS = (
    "activation.", "adapters.", "attention.", "attn_res.", "classifier.", "convnext.", "dense_", "expert", "hrm.",
    "hyper_connection.", "kda.", "ple.", "posnet.", "rope.", "shortconv.", "ssm.", "swiglu", "time_", "wkv.",
)  # fmt: skip
"""How keys begin that belong to one part of a model: a new one of them is taken for one that matters."""

_COMPUTED = frozenset({
    "block_size", "conv_group_size", "conv_kernel_size", "decoder_block_count", "decoder_start_token_id",
    "deepstack_mapping", "embedding_length_out", "embedding_length_per_layer_input", "features_length",
    "full_attention_interval", "hash_layer_count", "hidden_activation", "interleave_moe_layer_step",
    "moe_every_n_layers", "moe_latent_size", "n_deepstack_layers", "norm_before_fc", "norm_before_residual",
    "num_loops", "pooling_type", "rescale_every_n_layers", "router_logit_softcapping", "selector_rank",
    "selector_top_k", "skip_loop_final_norm", "swin_norm", "target_hidden_size", "target_layers", "token_shift_count",
    "use_parallel_residual",
})  # fmt: skip
"""Other keys of the format that change what a model computes (llama.cpp, ``llama-arch.cpp``)."""
