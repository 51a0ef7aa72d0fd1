"""EXAONE 4: norms after each branch only, norms of query and key heads, and in the 32B model local and global layers.

The global layers of a model with windows have no rotation.

Source: LG AI Research 2025, arXiv 2507.11407; transformers' ``modeling_exaone4.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .. import decoder, parts
from ..config import MAX_CONTEXT, MAX_LAYERS, Fields, Known, gguf, hf
from ..layers import PostNormBlock, Rope
from ..weights import Spec, Weights

PATTERN = 4  # of a file that does not say
_LETTERS = "LLLG"  # the published files' name of that pattern


def _hf_windows(fields: Fields, known: Known) -> tuple[int, ...]:
    """Read each layer's window: ``layer_types``, or ``sliding_window_pattern``."""
    width = hf.window(default=4096)(fields, known)
    period = PATTERN
    if fields.raw("sliding_window_pattern") != _LETTERS and width:
        period = fields.integer("sliding_window_pattern", 1, MAX_LAYERS, default=PATTERN)
    slides = hf.sliding(fields, known["n_layers"], lambda layer: width > 0 and (layer + 1) % period != 0)
    if any(slides) and not width:
        raise fields.error("layer_types", "expected no sliding_attention in a model without a sliding_window")
    return tuple(width if slide else 0 for slide in slides)


def _hf_rotated(fields: Fields, known: Known) -> tuple[bool, ...]:
    return _rotated(known["windows"], hf.window(default=4096)(fields, known) > 0)


def _gguf_windows(fields: Fields, known: Known) -> tuple[int, ...]:
    width = fields.integer("attention.sliding_window", 0, MAX_CONTEXT, default=0)
    slides = gguf.sliding(PATTERN)(fields, known)
    return tuple(width if slide else 0 for slide in slides)


def _gguf_rotated(fields: Fields, known: Known) -> tuple[bool, ...]:
    return _rotated(known["windows"], fields.integer("attention.sliding_window", 0, MAX_CONTEXT, default=0) > 0)


def _rotated(windows: Sequence[int], local: bool) -> tuple[bool, ...]:
    """Rotate all layers of a model without windows, or the layers with one."""
    return tuple(not local or window > 0 for window in windows)


@dataclass(frozen=True, kw_only=True)
class Config(decoder.Config):
    """Configuration of an EXAONE 4 model.

    Attributes:
        windows: for each layer, the number of positions that a token sees, itself included; 0: all.
        rotated: for each layer, whether queries and keys are rotated.
    """

    HF = hf.Table(
        ("exaone4",),
        {
            **hf.SIZES,
            "norm_eps": hf.eps(1e-5),
            "rope": hf.rope(),
            "activation": hf.ACTIVATION,
            "windows": _hf_windows,
            "rotated": _hf_rotated,
        },
    )
    GGUF = gguf.Table(
        "exaone4",
        {**gguf.SIZES, "rope": gguf.rope(), "windows": _gguf_windows, "rotated": _gguf_rotated},
    )

    windows: tuple[int, ...]
    rotated: tuple[bool, ...]


class Model(decoder.Decoder[Config]):
    """An EXAONE 4 model; see :class:`pyml_nn.Model`."""

    @staticmethod
    def specs(config: Config) -> dict[str, Spec]:
        """Names and shapes of all weights."""
        hidden = (config.hidden_size,)
        return parts.rope_factors(config.rope.dim) | parts.specs(
            config,
            [
                *parts.attention(config),
                *parts.qk_norms(config),
                parts.Part("attention.post_norm", "post_attention_layernorm", "post_attention_norm", hidden),
                *parts.gated(config),
                parts.Part("feed_forward.post_norm", "post_feedforward_layernorm", "post_ffw_norm", hidden),
            ],
        )

    def ropes(self, weights: Weights) -> Sequence[tuple[str, Rope] | None]:
        """The rotation of every layer, with the name of the operation that computes its angles; None: no rotation."""
        rope = decoder.read_rope(weights, self.config.rope)
        return [("rope", rope) if rotated else None for rotated in self.config.rotated]

    def block(self, weights: Weights, layer: int) -> PostNormBlock:
        """Read one layer."""
        config, name = self.config, f"layers.{layer}"
        return PostNormBlock(
            decoder.read_attention(weights, layer, config, window=config.windows[layer], norm=self.norm),
            self.norm(weights, f"{name}.attention.post_norm"),
            decoder.read_gated(weights, layer, config.activation),
            self.norm(weights, f"{name}.feed_forward.post_norm"),
        )
