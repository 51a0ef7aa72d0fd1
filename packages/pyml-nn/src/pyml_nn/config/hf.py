"""Tables of keys for ``config.json``, and the readers that several families share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from operator import itemgetter
from types import MappingProxyType
from typing import Any, NamedTuple

from ..layers.feed_forward import ACTIVATIONS
from .fields import MAX_CONTEXT, MAX_HEADS, MAX_LAYERS, MAX_VOCAB, MAX_WIDTH, Fields
from .hf_file import close_fields, open_fields
from .hf_rope import rope, rope_section
from .table import Key, Known, Reader, pin, read

__all__ = [
    "ACTIVATION",
    "SIZES",
    "Table",
    "close_fields",
    "context",
    "eps",
    "head_dim",
    "open_fields",
    "rope",
    "rope_section",
    "sliding",
    "window",
    "windows",
]

_log = logging.getLogger("pyml.load")

_LAYER_TYPES = {"sliding_attention": True, "full_attention": False}


class Table(NamedTuple):
    """The keys of an architecture's ``config.json``.

    Attributes:
        model_types: allowed values of ``model_type``.
        rows: field of the configuration -> reader, in the order of reading.
        fixed: key -> the only value that pyml supports; None: the key must be null or absent.
        harmless: keys that change nothing in this architecture.
    """

    model_types: tuple[str, ...]
    rows: Mapping[str, Reader]
    fixed: Mapping[str, Any] = MappingProxyType({})
    harmless: Collection[str] = ()

    def read(self, values: Any, where: str, allow_unknown: bool = False) -> dict[str, Any]:
        """Read all fields of a configuration.

        Raises:
            ConfigError: a key is missing, invalid, or unknown and may change the mathematics.
        """
        fields = open_fields(values, where, self.model_types, allow_unknown)
        pin(fields, self.fixed)
        found = read(fields, self.rows)
        close_fields(fields, self.harmless)
        return found


# ---- readers


def context(fields: Fields, known: Known, default: int | None = None) -> int:
    """Read ``max_position_embeddings``, limited to the start of dynamic NTK scaling, which changes nothing before.

    Source: ``dynamic_rope_update`` of transformers' ``modeling_rope_utils.py``.
    """
    length = fields.integer("max_position_embeddings", 1, MAX_CONTEXT, default)
    for key in ("rope_parameters", "rope_scaling"):
        outer = fields.raw(key)
        sections = [outer, *outer.values()] if isinstance(outer, Mapping) else []
        for section in sections:
            if isinstance(section, Mapping) and "dynamic" in (section.get("rope_type"), section.get("type")):
                original = section.get("original_max_position_embeddings")
                limit = min(length, original) if type(original) is int and original > 0 else length
                _log.warning(
                    "%s: %s: dynamic scaling begins after %d positions and is not supported: a context ends there",
                    fields.where, key, limit,
                )  # fmt: skip
                return limit
    return length


def head_dim(fields: Fields, known: Known) -> int:
    """Read ``head_dim``, or divide the hidden size by the number of heads; ConfigError if there is a remainder."""
    hidden_size, n_heads = known["hidden_size"], known["n_heads"]
    if not fields.has("head_dim") and hidden_size % n_heads:
        raise fields.error(
            "num_attention_heads", f"{n_heads} does not divide hidden_size ({hidden_size}), and there is no head_dim"
        )
    return fields.integer("head_dim", 1, MAX_WIDTH, default=max(1, hidden_size // n_heads))


def eps(default: float | None = None) -> Key:
    """The epsilon of RMSNorms; without a default the key is required."""
    return Key("rms_norm_eps", float, 0, 1, default)


SIZES: Mapping[str, Reader] = {
    "vocab_size": Key("vocab_size", int, 1, MAX_VOCAB),
    "context_length": context,
    "hidden_size": Key("hidden_size", int, 1, MAX_WIDTH),
    "intermediate_size": Key("intermediate_size", int, 1, MAX_WIDTH),
    "n_layers": Key("num_hidden_layers", int, 1, MAX_LAYERS),
    "n_heads": Key("num_attention_heads", int, 1, MAX_HEADS),
    "n_kv_heads": Key("num_key_value_heads", int, 1, MAX_HEADS, itemgetter("n_heads")),
    "head_dim": head_dim,
    "norm_eps": eps(1e-6),
    "tie_word_embeddings": Key("tie_word_embeddings", bool, default=False),
}
"""The sizes of the many families that use Llama's names for them."""

ACTIVATION = Key("hidden_act", ACTIVATIONS, default="silu")


# ---- sliding windows


def sliding(fields: Fields, n_layers: int, default: Callable[[int], bool]) -> tuple[bool, ...]:
    """Read ``layer_types``: for each layer, whether it has a sliding window.

    Without that key, ``default`` decides by the layer's index.
    """
    types = fields.raw("layer_types")
    if types is None:
        return tuple(default(layer) for layer in range(n_layers))
    if not isinstance(types, list) or len(types) != n_layers or not all(str(t) in _LAYER_TYPES for t in types):
        raise fields.error("layer_types", f"expected a list of {n_layers} of {', '.join(_LAYER_TYPES)}")
    return tuple(_LAYER_TYPES[kind] for kind in types)


def window(default: int | None = None) -> Reader:
    """Read ``sliding_window``: 0 (no window) if it is null; ``default`` (None: no window) if it is absent."""

    def reader(fields: Fields, known: Known) -> int:
        if fields.is_null("sliding_window") or (default is None and not fields.has("sliding_window")):
            return 0
        return fields.integer("sliding_window", 1, MAX_CONTEXT, default=default)

    return reader


def windows(fields: Fields, known: Known) -> tuple[int, ...]:
    """Read each layer's window by Qwen's keys: ``sliding_window`` counts only with ``use_sliding_window``.

    ``layer_types`` says which layers have it, or ``max_window_layers``: the layers from that index on.
    """
    used = fields.flag("use_sliding_window", False)
    if used and not fields.is_null("sliding_window"):
        width = fields.integer("sliding_window", 1, MAX_CONTEXT, default=4096)
    else:
        width = 0
        fields.raw("sliding_window")
    first = fields.integer("max_window_layers", 0, MAX_LAYERS, default=28)
    slides = sliding(fields, known["n_layers"], lambda layer: width > 0 and layer >= first)
    if any(slides) and not width:
        raise fields.error("layer_types", "expected no sliding_attention in a model that uses no sliding_window")
    return tuple(width if slide else 0 for slide in slides)
