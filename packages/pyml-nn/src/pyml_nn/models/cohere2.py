"""Command R7B and Command A: Cohere with windows and a rotation in three of four layers, the others with neither.

Source: Cohere 2025, Command A, arXiv 2504.00698; transformers' ``modeling_cohere2.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .. import decoder
from ..config import MAX_CONTEXT, MAX_LAYERS, Fields, Known, gguf, hf
from ..layers import Attention, Rope
from ..weights import Weights
from . import cohere

PATTERN = 4  # of a file that does not say


def _hf_windows(fields: Fields, known: Known) -> tuple[int, ...]:
    """Read each layer's window: ``layer_types``, or ``sliding_window_pattern`` in older files."""
    period = fields.integer("sliding_window_pattern", 1, MAX_LAYERS, default=PATTERN)
    fields.fixed("layer_switch", period)  # the pattern's name in the first files
    width = fields.integer("sliding_window", 1, MAX_CONTEXT, default=4096)
    slides = hf.sliding(fields, known["n_layers"], lambda layer: (layer + 1) % period != 0)
    return tuple(width if slide else 0 for slide in slides)


def _gguf_windows(fields: Fields, known: Known) -> tuple[int, ...]:
    width = fields.integer("attention.sliding_window", 1, MAX_CONTEXT)
    return tuple(width if slide else 0 for slide in gguf.sliding(PATTERN)(fields, known))


@dataclass(frozen=True, kw_only=True)
class Config(cohere.Config):
    """Configuration of a Cohere 2 model.

    Attributes:
        windows: for each layer, the number of positions that a token sees, itself included; 0: all, and no rotation.
    """

    HF = hf.Table(
        ("cohere2",),
        {**cohere.HF_ROWS, "rope": hf.rope(), "windows": _hf_windows},
        fixed={
            "use_qk_norm": False,
            "order_of_interleaved_layers": "local_attn_first",
            "position_embedding_type": "rope_gptj",
            "use_gated_activation": True,
            "use_parallel_block": True,
            "use_parallel_embedding": False,
        },
        harmless=("use_embedding_sharing",),  # as tie_word_embeddings, which counts
    )
    GGUF = gguf.Table("cohere2", {**cohere.GGUF_ROWS, "windows": _gguf_windows})

    windows: tuple[int, ...]


class Model(cohere.Model):
    """A Cohere 2 model; see :class:`pyml_nn.Model`."""

    config: Config

    def ropes(self, weights: Weights) -> Sequence[tuple[str, Rope] | None]:
        """The rotation of every layer, with the name of the operation that computes its angles; None: no rotation."""
        return [("rope", self.config.rope) if window else None for window in self.config.windows]

    def attention(self, weights: Weights, layer: int) -> Attention:
        """Read the attention of one layer; the rows of q and k are interleaved in all files."""
        window = self.config.windows[layer]
        return decoder.read_attention(weights, layer, self.config, window=window, interleaved=True)
