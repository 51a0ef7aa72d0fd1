"""Mistral 7B and its relatives: Llama with a sliding window. GGUF files call them ``llama``.

Ministral has the window in some of its layers, which ``layer_types`` lists.

Source: Jiang et al. 2023, arXiv 2310.06825; transformers' ``modeling_mistral.py`` and ``modeling_ministral.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..config import Fields, Known, hf
from . import llama

Model = llama.Model


def _full_layers(fields: Fields, known: Known) -> tuple[int, ...]:
    sliding = hf.sliding(fields, known["n_layers"], lambda layer: True)
    if fields.has("layer_types") and any(sliding) and not known["window"]:
        raise fields.error("layer_types", "expected no sliding_attention in a model without a sliding_window")
    return tuple(layer for layer, slides in enumerate(sliding) if not slides)


@dataclass(frozen=True, kw_only=True)
class Config(llama.Config):
    """Configuration of a Mistral model.

    Attributes:
        full_layers: indices of the layers without the window.
    """

    HF = hf.Table(
        ("mistral",),
        {
            **hf.SIZES,
            "rope": hf.rope(),
            "activation": hf.ACTIVATION,
            "window": hf.window(default=4096),
            "full_layers": _full_layers,
        },
    )

    full_layers: tuple[int, ...] = ()

    def window_of(self, layer: int) -> int:
        """The window of a layer; 0: all positions."""
        return 0 if layer in self.full_layers else self.window
