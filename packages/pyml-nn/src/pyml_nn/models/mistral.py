"""Mistral 7B and its relatives: Llama with a sliding window. In GGUF files they are called ``llama``.

Ministral has the window in some of its layers only, which ``layer_types`` tells.

Source: Jiang et al. 2023, arXiv 2310.06825; transformers' ``modeling_mistral.py`` and ``modeling_ministral.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..config import MAX_CONTEXT, Fields
from ..config.hf import close_hf, hf_fields, hf_sizes, hf_sliding
from ..config.rope import hf_rope
from ..layers import ACTIVATIONS
from . import llama

Model = llama.Model


@dataclass(frozen=True, kw_only=True)
class Config(llama.Config):
    """What a Mistral model computes.

    Attributes:
        full_layers: numbers of the layers without the window.
    """

    full_layers: tuple[int, ...] = ()

    def window_of(self, layer: int) -> int:
        """The window of a layer; 0 is all."""
        return 0 if layer in self.full_layers else self.window

    @classmethod
    def from_hf(cls, values: Mapping[str, Any], where: str = "config.json") -> Config:
        """From a ``config.json``; ConfigError if it is malformed or asks for something else than this file computes."""
        fields = hf_fields(values, where, ("mistral",))
        sizes = hf_sizes(fields, eps=1e-6)
        window = hf_window(fields, default=4096)
        sliding = hf_sliding(fields, sizes["n_layers"], lambda layer: True)
        if fields.has("layer_types") and any(sliding) and not window:
            raise fields.error("layer_types", "expected no sliding_attention in a model without a sliding_window")
        config = cls(
            **sizes,
            rope=hf_rope(fields, sizes["head_dim"], sizes["context_length"]),
            activation=fields.choice("hidden_act", ACTIVATIONS, default="silu"),
            window=window,
            full_layers=tuple(layer for layer, slides in enumerate(sliding) if not slides),
        )
        close_hf(fields)
        return config


def hf_window(fields: Fields, default: int | None = None) -> int:
    """``sliding_window``, where null means no window (0), and a missing key ``default`` (None: no window)."""
    if fields.is_null("sliding_window") or (default is None and not fields.has("sliding_window")):
        return 0
    return fields.integer("sliding_window", 1, MAX_CONTEXT, default=default)
