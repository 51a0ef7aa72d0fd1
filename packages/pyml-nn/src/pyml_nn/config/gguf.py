"""Tables of keys for GGUF metadata, and the readers that several families share."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from operator import itemgetter
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from pyml_core.ops.experts import MAX_EXPERTS

from ..errors import ConfigError, show
from .fields import MAX_CONTEXT, MAX_HEADS, MAX_LAYERS, MAX_VOCAB, MAX_WIDTH, Fields
from .gguf_keys import close_fields
from .gguf_rope import checked_factors, rope, with_factors
from .table import Key, Known, Reader, constant, pin, read

__all__ = [
    "EXPERTS",
    "IMAGES",
    "SIZES",
    "WINDOW",
    "PerLayer",
    "Table",
    "check_general_type",
    "checked_factors",
    "eps",
    "no_windows",
    "rope",
    "sliding",
    "with_factors",
]

_TYPES = {
    "adapter": "an adapter (LoRA), which needs its base model: give that, and the adapter as --lora (adapters=[...])",
    "imatrix": "statistics for quantising a model",
    "mmproj": "the part of a model that reads images or sound: give the file with the text model",
}


def check_general_type(metadata: Mapping[str, Any], where: str) -> None:
    """Refuse a GGUF file that does not contain a model.

    Raises:
        ConfigError: names its ``general.type``.
    """
    kind = metadata.get("general.type", "adapter" if "adapter.type" in metadata else "model")
    if isinstance(kind, str) and kind in _TYPES:
        raise ConfigError(f"{where}: general.type: expected 'model', found {kind!r}: {_TYPES[kind]}")


class Table(NamedTuple):
    """The keys of an architecture's GGUF metadata.

    Attributes:
        architecture: value of ``general.architecture``, and prefix of the keys.
        rows: field of the configuration -> reader, in the order of reading; ``vocab_size`` is read before them.
        fixed: key -> the only value that pyml supports; None: the key must be absent.
        experts: whether the architecture is a mixture of experts; else keys of experts are refused.
        aliases: other names that files give this architecture.
        harmless: keys that change nothing in this architecture.
    """

    architecture: str
    rows: Mapping[str, Reader]
    fixed: Mapping[str, Any] = MappingProxyType({})
    experts: bool = False
    aliases: tuple[str, ...] = ()
    harmless: Collection[str] = ()

    def read(self, metadata: Mapping[str, Any], allow_unknown: bool = False) -> dict[str, Any]:
        """Read all fields of a configuration.

        Raises:
            ConfigError: a key is missing, invalid, or unknown and may change the mathematics.
        """
        found = metadata.get("general.architecture")
        if found != self.architecture and found not in self.aliases:
            raise ConfigError(
                f"GGUF metadata: general.architecture: expected {self.architecture!r}, found {show(found)}"
            )
        prefix = f"{found}."
        values = {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)}
        fields = Fields(values, "GGUF metadata", prefix, allow_unknown)
        pin(fields, {"attention.causal": True})
        if not self.experts:
            pin(fields, {"expert_count": 0, "expert_used_count": 0})
        pin(fields, self.fixed)
        known = read(fields, self.rows, {"vocab_size": _vocab_size(fields, metadata)})
        close_fields(fields, self.harmless)
        return known


# ---- readers


class PerLayer:
    """A positive integer that all layers share: one number, or an array with equal numbers, one for each layer.

    Args:
        name: the key.
        high: largest number allowed.
        default: as in :class:`pyml_nn.config.Key`.
    """

    __slots__ = ("default", "high", "name")

    def __init__(self, name: str, high: int, default: Any = None) -> None:
        self.name, self.high, self.default = name, high, default

    def __call__(self, fields: Fields, known: Known) -> int:
        """Read the key; ConfigError if it is missing, out of range, or differs between layers."""
        value = fields.raw(self.name)
        if not isinstance(value, Collection) or isinstance(value, str | bytes):
            default = self.default(known) if callable(self.default) else self.default
            return fields.integer(self.name, 1, self.high, default)
        numbers, n_layers = list(value), known["n_layers"]
        if len(numbers) != n_layers:
            raise fields.error(self.name, f"expected one number, or {n_layers}, one a layer, found {len(numbers)}")
        other = next((layer for layer, number in enumerate(numbers) if number != numbers[0]), None)
        if other is not None:
            raise fields.error(
                self.name,
                "expected one number for all layers (pyml supports nothing else here), found "
                f"{show(numbers[0])} in layer 0 and {show(numbers[other])} in layer {other}",
            )
        return fields.checked_integer(self.name, numbers[0], 1, self.high)


def head_dim(fields: Fields, known: Known) -> int:
    """Read ``attention.key_length``, or divide the hidden size by the number of heads; values are as wide as keys."""
    hidden_size, n_heads = known["hidden_size"], known["n_heads"]
    if not fields.has("attention.key_length") and hidden_size % n_heads:
        raise fields.error("attention.head_count", f"{n_heads} does not divide embedding_length ({hidden_size})")
    width = fields.integer("attention.key_length", 1, MAX_WIDTH, default=max(1, hidden_size // n_heads))
    if fields.integer("attention.value_length", 1, MAX_WIDTH, default=width) != width:
        raise fields.error("attention.value_length", f"expected as many as attention.key_length ({width})")
    return width


def eps(name: str = "layer_norm_rms_epsilon") -> Key:
    """The epsilon of the norms."""
    return Key(f"attention.{name}", float, 0, 1)


def _vocab_size(fields: Fields, metadata: Mapping[str, Any]) -> int:
    """Read ``vocab_size``, or count the tokenizer's tokens."""
    tokens = metadata.get("tokenizer.ggml.tokens")
    count = len(tokens) if isinstance(tokens, Collection) and not isinstance(tokens, str) else None
    return fields.integer("vocab_size", 1, MAX_VOCAB, default=count)


SIZES: Mapping[str, Reader] = {
    "n_layers": Key("block_count", int, 1, MAX_LAYERS),
    "hidden_size": Key("embedding_length", int, 1, MAX_WIDTH),
    "n_heads": PerLayer("attention.head_count", MAX_HEADS),
    "context_length": Key("context_length", int, 1, MAX_CONTEXT),
    "intermediate_size": PerLayer("feed_forward_length", MAX_WIDTH),
    "n_kv_heads": PerLayer("attention.head_count_kv", MAX_HEADS, itemgetter("n_heads")),
    "head_dim": head_dim,
    "norm_eps": eps(),
    "tie_word_embeddings": constant(True),  # a file without a head's matrix has a tied head
}
"""The sizes; their names do not depend on the architecture."""

EXPERTS: Mapping[str, Reader] = {
    "n_experts": Key("expert_count", int, 1, MAX_EXPERTS),
    "n_chosen": PerLayer("expert_used_count", MAX_EXPERTS),
}
"""The numbers of experts of a mixture."""

WINDOW = Key("attention.sliding_window", int, 0, MAX_CONTEXT, 0)
"""The window that all layers share; 0: no window."""


IMAGES = ("rope.dimension_sections", "n_deepstack_layers")
"""Keys of models that also read images: text has equal positions on all axes, and adds nothing to upper layers."""


def sliding(period: int) -> Reader:
    """Read, for each layer, whether it has a sliding window: a flag for each layer, or the period of the global layers.

    Args:
        period: the period of a file without ``attention.sliding_window_pattern``.
    """

    def reader(fields: Fields, known: Known) -> tuple[bool, ...]:
        key, n_layers = "attention.sliding_window_pattern", known["n_layers"]
        flags = fields.raw(key)
        if not isinstance(flags, Collection) or isinstance(flags, str | bytes):
            every = fields.integer(key, 1, MAX_LAYERS, default=period)
            return tuple((layer + 1) % every != 0 for layer in range(n_layers))
        if len(flags) != n_layers or not all(isinstance(flag, bool | np.bool_) for flag in flags):
            raise fields.error(key, f"expected a number, or {n_layers} flags, one a layer, found {len(flags)} values")
        return tuple(map(bool, flags))

    return reader


def no_windows(fields: Fields, known: Known) -> tuple[int, ...]:
    """For each layer, no window."""
    return (0,) * int(known["n_layers"])
