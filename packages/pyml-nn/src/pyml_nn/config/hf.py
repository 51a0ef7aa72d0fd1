"""Reading a model's configuration from Hugging Face's ``config.json``: what the families have in common."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from ..errors import show
from .dimensions import MAX_CONTEXT, MAX_HEADS, MAX_LAYERS, MAX_VOCAB, MAX_WIDTH, Sizes
from .fields import Fields
from .hf_keys import is_harmless, may_matter, quantised_with

_log = logging.getLogger("pyml.load")
_MOST_NAMED = 3  # keys in a warning

_LAYER_TYPES = {"sliding_attention": True, "full_attention": False}

_OWN_CODE = {"phi3": "Phi3", "falcon": "Falcon"}
"""Model types whose folders name code of their own that transformers has since built in, and how its classes begin."""

_OTHER_REPOSITORY = re.compile(r"[\w.-]+/[\w-]+")  # where a tokenizer is; it names no class
_BUILT_IN = re.compile(r"(configuration|modeling)_(\w+)\.(\w+?)(Config|Model|For[A-Z]\w+)")


def repeats_built_ins(config: Mapping[str, Any]) -> bool:
    """Whether the ``auto_map`` of a Hugging Face configuration names only classes that transformers has built in.

    Such folders were published before their architecture was part of transformers; their own code says the same. A
    repository that the tokenizer was taken from may be named as well: it is in the folder.
    """
    kind, classes = config.get("model_type"), config.get("auto_map")
    if not isinstance(classes, Mapping) or not isinstance(kind, str) or kind not in _OWN_CODE:
        return False
    names = [
        name
        for key, name in classes.items()
        if not (key == "AutoTokenizer" and isinstance(name, str) and _OTHER_REPOSITORY.fullmatch(name))
    ]
    found = [_BUILT_IN.fullmatch(name) if isinstance(name, str) else None for name in names]
    return all(match is not None and match[2] == kind and match[3] == _OWN_CODE[kind] for match in found)


def hf_fields(values: Any, where: str, model_types: Collection[str]) -> Fields:
    """The fields of a Hugging Face ``config.json`` of one of these model types, after the checks common to all.

    Raises:
        ConfigError: another model type, custom code (``auto_map``), a quantisation scheme, an encoder, ...
    """
    fields = Fields(values, where)
    for key in ("auto_map", "trust_remote_code", "custom_pipelines"):
        if fields.raw(key) and not (key == "auto_map" and repeats_built_ins(values)):
            raise fields.error(key, "refused: it asks for the repository's own code to be run, and pyml runs none")
    fields.choice("model_type", dict.fromkeys(model_types))
    fields.fixed("is_encoder_decoder", False)
    fields.fixed("add_cross_attention", False)
    fields.fixed("cross_attention_hidden_size")
    fields.fixed("pruned_heads", {})
    fields.fixed("per_layer_config")
    if (quantised := quantised_with(values)) is not None:
        key, how = quantised
        raise fields.error(
            key,
            f"the weights are {' '.join(['quantised', *how])}, which is not supported: use the weights in bf16, f16 or "
            "f32, or a GGUF file",
        )
    return fields


def close_hf(fields: Fields, harmless: Collection[str] = ()) -> None:
    """Refuse what nothing has read and what may change the mathematics; warn of other keys, which are passed over.

    Args:
        fields: the configuration.
        harmless: keys that are known to change nothing in this architecture.

    Raises:
        ConfigError: such a key has another value than the one that leaves everything as it is.
    """
    unknown = []
    for key, value in fields.left():
        if key in harmless or is_harmless(key, value):
            continue
        if may_matter(key, value):
            raise fields.error(key, f"unknown key (found {show(value)}); it may change what the model computes")
        unknown.append(f"{fields.named(key)} (found {show(value)})")
    if unknown:
        more = f" and {len(unknown) - _MOST_NAMED} more" if len(unknown) > _MOST_NAMED else ""
        keys = "unknown key" if len(unknown) == 1 else "unknown keys"
        _log.warning("%s: %s%s: %s, ignored", fields.where, ", ".join(unknown[:_MOST_NAMED]), more, keys)


def hf_context(fields: Fields, default: int | None = None) -> int:
    """``max_position_embeddings``, or where dynamic NTK scaling begins, which changes nothing before.

    Source: ``dynamic_rope_update`` of transformers' ``modeling_rope_utils.py``.
    """
    length = fields.integer("max_position_embeddings", 1, MAX_CONTEXT, default)
    for key in ("rope_parameters", "rope_scaling"):
        outer = fields.raw(key)
        sections = [outer, *outer.values()] if isinstance(outer, Mapping) else []
        for section in sections:
            if isinstance(section, Mapping) and "dynamic" in (section.get("rope_type"), section.get("type")):
                original = section.get("original_max_position_embeddings")
                known = min(length, original) if type(original) is int and original > 0 else length
                _log.warning(
                    "%s: %s: dynamic scaling begins after %d positions and is not supported: a context ends there",
                    fields.where, key, known,
                )  # fmt: skip
                return known
    return length


def hf_sizes(fields: Fields, *, eps: float | None = None, tied: bool = False) -> Sizes:
    """The sizes in a ``config.json`` of one of the many families that call them alike.

    Args:
        fields: the configuration.
        eps: ``rms_norm_eps`` where the file has none; None: it must have one.
        tied: ``tie_word_embeddings`` where the file has none.
    """
    hidden_size = fields.integer("hidden_size", 1, MAX_WIDTH)
    n_heads = fields.integer("num_attention_heads", 1, MAX_HEADS)
    return Sizes(
        vocab_size=fields.integer("vocab_size", 1, MAX_VOCAB),
        context_length=hf_context(fields),
        hidden_size=hidden_size,
        intermediate_size=fields.integer("intermediate_size", 1, MAX_WIDTH),
        n_layers=fields.integer("num_hidden_layers", 1, MAX_LAYERS),
        n_heads=n_heads,
        n_kv_heads=fields.integer("num_key_value_heads", 1, MAX_HEADS, default=n_heads),
        head_dim=hf_head_dim(fields, hidden_size, n_heads),
        norm_eps=fields.number("rms_norm_eps", 0, 1, default=eps),
        tie_word_embeddings=fields.flag("tie_word_embeddings", tied),
    )


def hf_sliding(fields: Fields, n_layers: int, default: Callable[[int], bool]) -> tuple[bool, ...]:
    """For every layer, whether it slides: the names in ``layer_types``, or by its number where there is no such key."""
    types = fields.raw("layer_types")
    if types is None:
        return tuple(default(layer) for layer in range(n_layers))
    if not isinstance(types, list) or len(types) != n_layers or not all(str(t) in _LAYER_TYPES for t in types):
        raise fields.error("layer_types", f"expected a list of {n_layers} of {', '.join(_LAYER_TYPES)}")
    return tuple(_LAYER_TYPES[kind] for kind in types)


def hf_head_dim(fields: Fields, hidden_size: int, n_heads: int) -> int:
    """``head_dim``, else the hidden size divided by the heads; ConfigError if that leaves a rest."""
    if not fields.has("head_dim") and hidden_size % n_heads:
        raise fields.error(
            "num_attention_heads", f"{n_heads} does not divide hidden_size ({hidden_size}), and there is no head_dim"
        )
    return fields.integer("head_dim", 1, MAX_WIDTH, default=max(1, hidden_size // n_heads))
