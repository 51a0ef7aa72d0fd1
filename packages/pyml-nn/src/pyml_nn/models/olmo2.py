"""OLMo 2 and OLMo 3: norms after each branch only, norms of all query heads and of all key heads together.

OLMo 3 has windows in three of four layers; the scaling of its rotation is that of the others.

Source: OLMo Team 2024, arXiv 2501.00656; transformers' ``modeling_olmo2.py`` and ``modeling_olmo3.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .. import decoder, parts
from ..config import MAX_CONTEXT, MAX_THETA, Fields, Key, Known, constant, gguf, hf
from ..layers import PostNormBlock, Rope
from ..weights import Spec, Weights

PATTERN = 4  # of a file that does not say
THETA = 500_000.0  # of OLMo 3


def _hf_windows(fields: Fields, known: Known) -> tuple[int, ...]:
    """Read each layer's window."""
    n_layers: int = known["n_layers"]
    if fields.raw("model_type") == "olmo2":
        return (0,) * n_layers
    width = hf.window(default=4096)(fields, known)
    slides = hf.sliding(fields, n_layers, lambda layer: width > 0 and (layer + 1) % PATTERN != 0)
    if any(slides) and not width:
        raise fields.error("layer_types", "expected no sliding_attention in a model without a sliding_window")
    return tuple(width if slide else 0 for slide in slides)


def _hf_ropes(fields: Fields, known: Known) -> tuple[Rope, Rope]:
    """Read the rotations of the layers without and with a window: ``rope_parameters`` by layer type, or older keys."""
    if fields.raw("model_type") == "olmo2":
        rope = hf.rope()(fields, known)
        return rope, rope
    head_dim, context_length = known["head_dim"], known["context_length"]
    theta = fields.number("rope_theta", 1, MAX_THETA, default=THETA)
    ropes = [Rope(head_dim, theta)] * 2
    by_type, scaling = fields.section("rope_parameters"), fields.section("rope_scaling")
    if by_type is not None:
        for index, kind in enumerate(("full_attention", "sliding_attention")):
            if (section := by_type.section(kind)) is not None:
                ropes[index] = hf.rope_section(section, head_dim, context_length, theta)
        by_type.close()
    if scaling is not None:
        scaled = hf.rope_section(scaling, head_dim, context_length, ropes[0].theta)
        if by_type is not None and scaled != ropes[0]:
            raise fields.error("rope_scaling", "differs from rope_parameters")
        ropes[0] = scaled
    return ropes[0], ropes[1]


def _gguf_windows(fields: Fields, known: Known) -> tuple[int, ...]:
    width = fields.integer("attention.sliding_window", 0, MAX_CONTEXT, default=0)
    slides = gguf.sliding(PATTERN)(fields, known)
    return tuple(width if slide else 0 for slide in slides)


def _gguf_local_rope(fields: Fields, known: Known) -> Rope:
    rope: Rope = known["rope"]
    if not any(known["windows"]):
        return rope
    return Rope(rope.dim, fields.number("rope.freq_base_swa", 1, MAX_THETA, default=rope.theta))


@dataclass(frozen=True, kw_only=True)
class Config(decoder.Config):
    """Configuration of an OLMo 2 or OLMo 3 model.

    Attributes:
        windows: for each layer, the number of positions that a token sees, itself included; 0: all.
        rope: the rotation of the layers without a window.
        local_rope: the rotation of the layers with a window.
        attention_bias: whether the four attention matrices have biases; None: if the weights have them (GGUF files do
            not say).
    """

    HF = hf.Table(
        ("olmo2", "olmo3"),
        {
            **hf.SIZES,
            "norm_eps": hf.eps(1e-5),
            "windows": _hf_windows,
            "rope": lambda fields, known: _hf_ropes(fields, known)[0],
            "local_rope": lambda fields, known: _hf_ropes(fields, known)[1],
            "activation": hf.ACTIVATION,
            "attention_bias": Key("attention_bias", bool, default=False),
        },
    )
    GGUF = gguf.Table(
        "olmo2",
        {
            **gguf.SIZES,
            "windows": _gguf_windows,
            "rope": gguf.rope(),
            "local_rope": _gguf_local_rope,
            "attention_bias": constant(None),
        },
    )

    windows: tuple[int, ...]
    local_rope: Rope
    attention_bias: bool | None


class Model(decoder.Decoder[Config]):
    """An OLMo 2 or OLMo 3 model; see :class:`pyml_nn.Model`."""

    @staticmethod
    def specs(config: Config) -> dict[str, Spec]:
        """Names and shapes of all weights."""
        hidden = (config.hidden_size,)
        return parts.specs(
            config,
            [
                *parts.attention(config, config.attention_bias, config.attention_bias),
                *parts.qk_norms(config, together=True),
                parts.Part("attention.post_norm", "post_attention_layernorm", "post_attention_norm", hidden),
                *parts.gated(config),
                parts.Part("feed_forward.post_norm", "post_feedforward_layernorm", "post_ffw_norm", hidden),
            ],
        )

    def ropes(self, weights: Weights) -> Sequence[tuple[str, Rope]]:
        """The rotation of every layer, with the name of the operation that computes its angles."""
        config = self.config
        if config.rope == config.local_rope:
            return [("rope", config.rope)] * config.n_layers
        local, everywhere = ("rope.local", config.local_rope), ("rope.global", config.rope)
        return [local if window else everywhere for window in config.windows]

    def block(self, weights: Weights, layer: int) -> PostNormBlock:
        """Read one layer."""
        config, name = self.config, f"layers.{layer}"
        return PostNormBlock(
            decoder.read_attention(weights, layer, config, window=config.windows[layer], norm=self.norm),
            self.norm(weights, f"{name}.attention.post_norm"),
            decoder.read_gated(weights, layer, config.activation),
            self.norm(weights, f"{name}.feed_forward.post_norm"),
        )
