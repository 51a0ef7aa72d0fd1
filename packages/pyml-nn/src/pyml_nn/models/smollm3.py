"""SmolLM3: Llama without a rotation in every fourth layer.

Source: Bakouch et al. 2025, Hugging Face's SmolLM3; Yang et al. 2025, arXiv 2501.18795; transformers'
``modeling_smollm3.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .. import decoder, parts
from ..config import MAX_CONTEXT, MAX_LAYERS, Fields, Key, Known, constant, gguf, hf
from ..layers import PreNormBlock, Rope
from ..weights import Spec, Weights

INTERVAL = 4  # GGUF files do not say


def _rotated(interval: int, n_layers: int) -> tuple[bool, ...]:
    return tuple((layer + 1) % interval != 0 for layer in range(n_layers))


def _hf_rotated(fields: Fields, known: Known) -> tuple[bool, ...]:
    """Read ``no_rope_layers``, in which 1 is a layer with a rotation, or the interval of those without."""
    n_layers = known["n_layers"]
    interval = fields.integer("no_rope_layer_interval", 1, MAX_LAYERS, default=INTERVAL)
    flags = fields.raw("no_rope_layers")
    if flags is None:
        return _rotated(interval, n_layers)
    if not isinstance(flags, list) or len(flags) != n_layers or not all(flag in (0, 1) for flag in flags):
        raise fields.error("no_rope_layers", f"expected a list of {n_layers} of 0 and 1")
    return tuple(flag == 1 for flag in flags)


def _windows(fields: Fields, known: Known) -> tuple[int, ...]:
    """Read each layer's window: with ``use_sliding_window``, layers without a rotation have one."""
    used, width = fields.flag("use_sliding_window", False), 0
    if used and fields.has("sliding_window"):
        width = fields.integer("sliding_window", 1, MAX_CONTEXT)
    else:
        fields.raw("sliding_window")
    slides = hf.sliding(fields, known["n_layers"], lambda layer: width > 0 and not known["rotated"][layer])
    if any(slides) and not width:
        raise fields.error("layer_types", "expected no sliding_attention in a model that uses no sliding_window")
    return tuple(width if slide else 0 for slide in slides)


@dataclass(frozen=True, kw_only=True)
class Config(decoder.Config):
    """Configuration of a SmolLM3 model.

    Attributes:
        rotated: for each layer, whether queries and keys are rotated.
        windows: for each layer, the number of positions that a token sees, itself included; 0: all.
        attention_bias: whether the four attention matrices have biases; None: if the weights have them (GGUF files do
            not say).
        mlp_bias: whether the three feed-forward matrices have biases; None as above.
    """

    HF = hf.Table(
        ("smollm3",),
        {
            **hf.SIZES,
            "tie_word_embeddings": Key("tie_word_embeddings", bool, default=True),
            "rope": hf.rope(2_000_000.0),
            "activation": hf.ACTIVATION,
            "rotated": _hf_rotated,
            "windows": _windows,
            "attention_bias": Key("attention_bias", bool, default=False),
            "mlp_bias": Key("mlp_bias", bool, default=False),
        },
        harmless=("max_window_layers",),  # of older files; transformers does not read it
    )
    GGUF = gguf.Table(
        "smollm3",
        {
            **gguf.SIZES,
            "rope": gguf.rope(),
            "rotated": lambda fields, known: _rotated(INTERVAL, known["n_layers"]),
            "windows": gguf.no_windows,
            "attention_bias": constant(None),
            "mlp_bias": constant(None),
        },
    )

    rotated: tuple[bool, ...]
    windows: tuple[int, ...]
    attention_bias: bool | None = False
    mlp_bias: bool | None = False


class Model(decoder.Decoder[Config]):
    """A SmolLM3 model; see :class:`pyml_nn.Model`."""

    @staticmethod
    def specs(config: Config) -> dict[str, Spec]:
        """Names and shapes of all weights."""
        attention = parts.attention(config, config.attention_bias, config.attention_bias)
        return parts.specs(config, parts.pre_norm(config, attention, parts.gated(config, config.mlp_bias)))

    def ropes(self, weights: Weights) -> Sequence[tuple[str, Rope] | None]:
        """The rotation of every layer, with the name of the operation that computes its angles; None: no rotation."""
        return [("rope", self.config.rope) if rotated else None for rotated in self.config.rotated]

    def block(self, weights: Weights, layer: int) -> PreNormBlock:
        """Read one layer."""
        config, name = self.config, f"layers.{layer}"
        window = config.windows[layer]
        return PreNormBlock(
            self.norm(weights, f"{name}.attention.norm"),
            decoder.read_attention(weights, layer, config, window=window, interleaved=weights.gguf),
            self.norm(weights, f"{name}.feed_forward.norm"),
            decoder.read_gated(weights, layer, config.activation),
        )
