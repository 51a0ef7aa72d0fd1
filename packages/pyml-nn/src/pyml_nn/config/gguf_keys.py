"""Keys of GGUF metadata that no architecture reads: the harmless ones, and those that change the mathematics.

Converters write new keys into files of old architectures. A key that changes a model's results is recognised by its
name or by its group.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping

from ..errors import show
from .fields import Fields, unknown_keys

_log = logging.getLogger("pyml.load")


def close_fields(fields: Fields, harmless: Collection[str] = ()) -> None:
    """Refuse unread keys that may change the mathematics, and log a warning about the other ones.

    Args:
        fields: the metadata of the architecture.
        harmless: keys that change nothing in this architecture.

    Raises:
        ConfigError: a key may change the mathematics, and its value is not known to be neutral.
    """
    unknown = []
    for key, value in fields.unread():
        if (
            key in harmless
            or key in _HARMLESS
            or (key in _NEUTRAL and not isinstance(value, Collection) and value == _NEUTRAL[key])
        ):
            continue
        if key in _NEUTRAL or key in _COMPUTED or key.startswith(_GROUPS):
            fields.refuse(key, f"not supported (found {show(value)}); it would change the model's results")
        else:
            unknown.append((key, value))
    if unknown:
        _log.warning("%s", unknown_keys(fields, unknown))


_HARMLESS = frozenset({"rope.scaling.finetuned", "rope.scaling.original_context_length", "tensor_data_layout"})
"""Keys that change nothing in the supported cases."""

_NEUTRAL: Mapping[str, float] = {
    "attention.clamp_kqv": 0, "attention.max_alibi_bias": 0, "attention.scale": 0, "attention.sliding_window": 0,
    "attn_logit_softcapping": 0, "embedding_scale": 1, "expert_group_count": 0, "expert_group_used_count": 0,
    "expert_shared_count": 0, "final_logit_softcapping": 0, "leading_dense_block_count": 0, "logit_scale": 1,
    "nextn_predict_layers": 0, "residual_scale": 1, "rope.scaling.attn_factor": 1,
}  # fmt: skip
"""Keys that change a model's results unless they have this value."""

_GROUPS = (
    "activation.", "adapters.", "attention.", "attn_res.", "classifier.", "convnext.", "dense_", "expert", "hrm.",
    "hyper_connection.", "kda.", "ple.", "posnet.", "rope.", "shortconv.", "ssm.", "swiglu", "time_", "wkv.",
)  # fmt: skip
"""Prefixes of keys that belong to one part of a model: new keys with such a prefix are refused."""

_COMPUTED = frozenset({
    "block_size", "conv_group_size", "conv_kernel_size", "decoder_block_count", "decoder_start_token_id",
    "deepstack_mapping", "embedding_length_out", "embedding_length_per_layer_input", "features_length",
    "full_attention_interval", "hash_layer_count", "hidden_activation", "interleave_moe_layer_step",
    "moe_every_n_layers", "moe_latent_size", "n_deepstack_layers", "norm_before_fc", "norm_before_residual",
    "num_loops", "pooling_type", "rescale_every_n_layers", "router_logit_softcapping", "selector_rank",
    "selector_top_k", "skip_loop_final_norm", "swin_norm", "target_hidden_size", "target_layers", "token_shift_count",
    "use_parallel_residual",
})  # fmt: skip
"""Other keys of the format that change a model's results (llama.cpp, ``llama-arch.cpp``)."""
