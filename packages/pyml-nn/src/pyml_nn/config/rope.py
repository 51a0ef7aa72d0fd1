"""Reading the rotation of a model from a ``config.json`` and from GGUF metadata."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError
from ..layers.rope import (
    FactorScaling,
    LinearScaling,
    Llama3Scaling,
    LongScaling,
    Rope,
    Scaling,
    YarnScaling,
)
from .dimensions import MAX_CONTEXT
from .fields import Fields

F32Array = npt.NDArray[np.float32]

MAX_THETA = 1e12

MIN_FACTOR, MAX_FACTOR = 1e-3, 1e6
"""Of frequencies; smaller ones would make them infinite."""


# ---- config.json

KINDS = {kind: kind for kind in ("default", "linear", "dynamic", "llama3", "yarn")}
"""Names of scalings in a ``config.json`` -> what they are."""


def hf_rope(
    fields: Fields,
    head_dim: int,
    context_length: int,
    default_theta: float = 10_000.0,
    *,
    kinds: Mapping[str, str] = KINDS,
    partial: bool = False,
    original_context: int | None = None,
) -> Rope:
    """The one rotation of a ``config.json``: ``rope_parameters``, or older files' ``rope_theta`` and ``rope_scaling``.

    Args:
        fields: the configuration.
        head_dim: width of a head.
        context_length: ``max_position_embeddings``.
        default_theta: of a file that has no ``rope_theta``.
        kinds: names of scalings that the architecture knows -> what they are.
        partial: whether a ``partial_rotary_factor`` may leave the end of each head as it is.
        original_context: positions of the pretraining, where the architecture has a key of its own for them.

    Raises:
        ConfigError: an unknown scaling, an unknown key in it, a value out of range, or the two spellings disagree.
    """
    theta = fields.number("rope_theta", 1, MAX_THETA, default=default_theta)
    share = _share(fields, 1.0, partial)
    ropes = [
        _hf_section(section, head_dim, context_length, theta, kinds, share, partial, original_context)
        for key in ("rope_parameters", "rope_scaling")
        if (section := fields.section(key)) is not None
    ]
    if len(ropes) == 2 and ropes[0] != ropes[1]:
        raise fields.error("rope_scaling", "says something else than rope_parameters")
    return ropes[0] if ropes else Rope(int(head_dim * share), theta)


def hf_rope_section(section: Fields, head_dim: int, context_length: int, default_theta: float) -> Rope:
    """The rotation that one ``rope_parameters`` or ``rope_scaling`` object describes."""
    return _hf_section(section, head_dim, context_length, default_theta, KINDS, 1.0, False, None)


def _hf_section(
    section: Fields,
    head_dim: int,
    context_length: int,
    default_theta: float,
    kinds: Mapping[str, str],
    default_share: float,
    partial: bool,
    original_context: int | None,
) -> Rope:
    dim = int(head_dim * _share(section, default_share, partial))
    theta = section.number("rope_theta", 1, MAX_THETA, default=default_theta)
    old_spelling = section.choice("type", kinds, default="default")
    kind = section.choice("rope_type", kinds, default=old_spelling)
    scaling: Scaling | None = None
    if kind == "linear":
        scaling = LinearScaling(_factor(section))
    elif kind == "dynamic":  # changes nothing where the context ends: see hf_context
        _factor(section)
        section.integer("original_max_position_embeddings", 1, MAX_CONTEXT, default=context_length)
    elif kind != "default":
        original = section.integer(
            "original_max_position_embeddings", 1, MAX_CONTEXT, default=original_context or context_length
        )
        if original_context is not None and original != original_context:
            raise section.error(
                "original_max_position_embeddings", f"expected {original_context} as outside of it, found {original}"
            )
        scaling = _READERS[kind](section, dim, context_length, original)
    section.close(("finetuned",))
    return Rope(dim, theta, scaling)


def _llama3(section: Fields, dim: int, context_length: int, original: int) -> Llama3Scaling:
    low = section.number("low_freq_factor", MIN_FACTOR, MAX_FACTOR)
    high = section.number("high_freq_factor", MIN_FACTOR, MAX_FACTOR)
    if high <= low:
        raise section.error("high_freq_factor", f"expected more than low_freq_factor ({low:g}), found {high:g}")
    return Llama3Scaling(_factor(section), low, high, original)


def _yarn(section: Fields, dim: int, context_length: int, original: int) -> YarnScaling:
    factor = _factor(section)
    # Some files have two coefficients, of which the quotient counts, and only if both are there.
    top, bottom = (section.number(key, 0, MAX_FACTOR, default=0) for key in ("mscale", "mscale_all_dim"))
    magnitude = _yarn_magnitude(factor, top) / _yarn_magnitude(factor, bottom) if top and bottom else None
    magnitude = _yarn_magnitude(factor) if magnitude is None else magnitude
    fast = section.number("beta_fast", MIN_FACTOR, MAX_FACTOR, default=32)
    slow = section.number("beta_slow", MIN_FACTOR, MAX_FACTOR, default=1)
    if fast <= slow:
        raise section.error("beta_fast", f"expected more than beta_slow ({slow:g}), found {fast:g}")
    return YarnScaling(
        factor, original, fast, slow, section.flag("truncate", True),
        section.number("attention_factor", 1e-6, MAX_FACTOR, default=magnitude),
    )  # fmt: skip


def _yarn_magnitude(factor: float, coefficient: float = 1.0) -> float:
    return 1.0 if factor <= 1 else 0.1 * coefficient * math.log(factor) + 1.0


def _longrope(section: Fields, dim: int, context_length: int, original: int) -> LongScaling:
    short = section.numbers("short_factor", dim // 2, MIN_FACTOR, MAX_FACTOR)
    long = section.numbers("long_factor", dim // 2, MIN_FACTOR, MAX_FACTOR)
    factor = section.number("factor", MIN_FACTOR, MAX_FACTOR, default=context_length / original)
    magnitude = 1.0 if factor <= 1 or original < 2 else math.sqrt(1 + math.log(factor) / math.log(original))
    return LongScaling(short, long, original, section.number("attention_factor", 1e-6, MAX_FACTOR, default=magnitude))


_READERS: Mapping[str, Callable[[Fields, int, int, int], Scaling]] = {
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
}


def _share(fields: Fields, default: float, partial: bool) -> float:
    """``partial_rotary_factor``: the share of a head that is rotated."""
    if partial:
        return fields.number("partial_rotary_factor", 1e-3, 1, default=default)
    fields.fixed("partial_rotary_factor", 1)
    return default


def _factor(section: Fields) -> float:
    return section.number("factor", MIN_FACTOR, MAX_FACTOR)


# ---- GGUF


def gguf_rope(
    fields: Fields, head_dim: int, context_length: int, default_theta: float = 10_000.0, *, partial: bool = False
) -> Rope:
    """The one rotation of GGUF metadata: ``rope.freq_base``, ``rope.dimension_count``, ``rope.scaling.*``."""
    dim = fields.integer("rope.dimension_count", 1, MAX_CONTEXT, default=head_dim)
    if dim > head_dim or (dim != head_dim and not partial):
        expected = f"at most {head_dim}" if partial else f"the whole head ({head_dim})"
        raise fields.error("rope.dimension_count", f"expected {expected}, found {dim}")
    theta = fields.number("rope.freq_base", 1, MAX_THETA, default=default_theta)
    # As in llama.cpp: a factor without a type is a linear one, a factor of 0 is none.
    kinds = {kind: kind for kind in ("none", "linear", "yarn")}
    kind = fields.choice("rope.scaling.type", kinds, default="linear")
    factor = fields.number(
        "rope.scaling.factor", 0, MAX_FACTOR, default=fields.number("rope.scale_linear", 0, MAX_FACTOR, default=0)
    )
    if kind == "none" or factor == 0:
        return Rope(dim, theta)
    if factor < MIN_FACTOR:
        raise fields.error("rope.scaling.factor", f"expected 0 or at least {MIN_FACTOR:g}, found {factor:g}")
    if kind == "yarn":
        return Rope(dim, theta, _gguf_yarn(fields, factor, context_length))
    return Rope(dim, theta, LinearScaling(factor) if factor != 1 else None)


def _gguf_yarn(fields: Fields, factor: float, context_length: int) -> YarnScaling:
    for key in ("yarn_ext_factor", "yarn_attn_factor"):
        fields.fixed(f"rope.scaling.{key}", 1)
    fields.fixed("rope.scaling.yarn_log_multiplier", 0)
    return YarnScaling(
        factor,
        fields.integer("rope.scaling.original_context_length", 1, MAX_CONTEXT, default=context_length),
        fields.number("rope.scaling.yarn_beta_fast", MIN_FACTOR, MAX_FACTOR, default=32),
        fields.number("rope.scaling.yarn_beta_slow", MIN_FACTOR, MAX_FACTOR, default=1),
        magnitude=_yarn_magnitude(factor) * fields.number("rope.scaling.attn_factor", 1e-6, MAX_FACTOR, default=1),
    )


def with_factors(rope: Rope, factors: F32Array) -> Rope:
    """This rotation with a GGUF file's own frequency factors, float32 (dim / 2).

    Raises:
        ConfigError: the metadata scales too, or a factor is out of range.
    """
    if rope.scaling is not None:
        raise ConfigError("rope_freqs.weight: the metadata's rope.scaling.type scales the frequencies as well")
    return replace(rope, scaling=FactorScaling(checked_factors("rope_freqs.weight", factors)))


def checked_factors(name: str, factors: F32Array) -> tuple[float, ...]:
    """Frequency factors out of a GGUF file; ConfigError if one is not a finite number of at least ``MIN_FACTOR``."""
    bad = factors[~(np.isfinite(factors) & (factors >= np.float32(MIN_FACTOR)))]
    if bad.size:
        raise ConfigError(f"{name}: expected finite factors of at least {MIN_FACTOR:g}, found {bad[0]:g}")
    return tuple(map(float, factors))
