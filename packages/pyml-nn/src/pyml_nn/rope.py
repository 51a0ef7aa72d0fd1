"""Rotary position embedding: the frequencies of a head's rotation, and their scaling to longer contexts.

Source: Su et al. 2021, arXiv 2104.09864. The rotation itself is part of :meth:`pyml_core.Program.prepare_qkv`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .config import MAX_CONTEXT, ConfigError, Fields

if TYPE_CHECKING:
    from pyml_core.graph import Buffer
    from pyml_core.program import Program

F32Array = npt.NDArray[np.float32]
F64Array = npt.NDArray[np.float64]

MAX_THETA = 1e12
MIN_FACTOR, MAX_FACTOR = 1e-3, 1e6
"""Of frequencies; smaller ones would make them infinite."""


@dataclass(frozen=True)
class LinearScaling:
    """Positions divided by ``factor``. Source: Chen et al. 2023, arXiv 2306.15595."""

    factor: float
    magnitude: float = 1.0

    def apply(self, inv_freq: F64Array, theta: float) -> F64Array:
        """The scaled frequencies."""
        return inv_freq / self.factor


@dataclass(frozen=True)
class Llama3Scaling:
    """Long wavelengths divided by ``factor``, short ones kept, a smooth step between them.

    Attributes:
        factor: divisor of frequencies whose wavelength is over ``original_context / low_freq_factor``.
        low_freq_factor: see ``factor``.
        high_freq_factor: frequencies whose wavelength is under ``original_context / high_freq_factor`` are kept.
        original_context: positions of the pretraining.
        magnitude: factor of the rotated vectors.

    Source: ``_compute_llama3_parameters`` of transformers' ``modeling_rope_utils.py``.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int
    magnitude: float = 1.0

    def apply(self, inv_freq: F64Array, theta: float) -> F64Array:
        """The scaled frequencies."""
        turns = self.original_context * inv_freq / (2 * math.pi)
        smooth = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        smooth = np.clip(smooth, 0.0, 1.0)
        return (1 - smooth) * inv_freq / self.factor + smooth * inv_freq


@dataclass(frozen=True)
class YarnScaling:
    """Pairs that turn often kept, those that turn rarely divided by ``factor``, a ramp over the pairs between them.

    Attributes:
        factor: divisor of the slow pairs' frequencies.
        original_context: positions of the pretraining.
        beta_fast: pairs that turn more often than this within ``original_context`` are kept.
        beta_slow: pairs that turn less often are divided.
        truncate: the ramp begins and ends at whole pairs.
        magnitude: factor of the rotated vectors.

    Source: Peng et al. 2023, arXiv 2309.00071; ``_compute_yarn_parameters`` of transformers.
    """

    factor: float
    original_context: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    magnitude: float = 1.0

    def apply(self, inv_freq: F64Array, theta: float) -> F64Array:
        """The scaled frequencies."""
        dim = 2 * len(inv_freq)

        def pair(turns: float) -> float:
            return dim * math.log(self.original_context / (turns * 2 * math.pi)) / (2 * math.log(theta))

        low, high = pair(self.beta_fast), pair(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, dim - 1)
        ramp = np.clip((np.arange(len(inv_freq)) - low) / (high - low if high != low else 0.001), 0.0, 1.0)
        scaled: F64Array = inv_freq / self.factor * ramp + inv_freq * (1 - ramp)
        return scaled


@dataclass(frozen=True)
class LongScaling:
    """LongRoPE: every frequency divided by its own factor, of one set for short sequences and another for long ones.

    A sequence of more than ``original_context`` tokens is a long one. This makes two sets of frequencies, of which
    :class:`pyml_nn.model.Model` chooses for each sequence, see :attr:`pyml_nn.config.Dimensions.long_from`.

    Attributes:
        short_factors: one for each pair.
        long_factors: one for each pair.
        original_context: positions of the pretraining.
        magnitude: factor of the rotated vectors, for short and long sequences.

    Source: Ding et al. 2024, arXiv 2402.13753; ``_compute_longrope_parameters`` of transformers.
    """

    short_factors: tuple[float, ...]
    long_factors: tuple[float, ...]
    original_context: int
    magnitude: float = 1.0

    def apply(self, inv_freq: F64Array, theta: float) -> F64Array:
        """The two sets of frequencies (2, dim / 2)."""
        return inv_freq / np.array([self.short_factors, self.long_factors], np.float64)


@dataclass(frozen=True)
class FactorScaling:
    """Every frequency divided by its own factor: what GGUF files store in ``rope_freqs.weight``."""

    factors: tuple[float, ...]
    magnitude: float = 1.0

    def apply(self, inv_freq: F64Array, theta: float) -> F64Array:
        """The scaled frequencies."""
        return inv_freq / np.array(self.factors, np.float64)


Scaling = LinearScaling | Llama3Scaling | YarnScaling | LongScaling | FactorScaling


@dataclass(frozen=True)
class Rope:
    """One rotation: of how many elements of a head, from which base, scaled how.

    Attributes:
        dim: elements of a head that are rotated, its first ones; even.
        theta: base of the wavelengths.
        scaling: how frequencies are scaled, or None.
    """

    dim: int
    theta: float
    scaling: Scaling | None = None

    def __post_init__(self) -> None:
        if self.dim % 2:
            raise ConfigError(f"head_dim: RoPE rotates pairs, expected an even number, found {self.dim}")
        if isinstance(self.scaling, YarnScaling) and self.theta <= 1:
            raise ConfigError(f"rope_theta: expected more than 1 with a yarn scaling, found {self.theta:g}")

    def inv_freq(self) -> F32Array:
        """``theta ** (-2 i / dim)``, scaled: radians a position for pair i, float32 (dim / 2).

        Of LongRoPE, the frequencies of short and of long sequences (2, dim / 2).
        """
        inv_freq = self.theta ** (-np.arange(0, self.dim, 2, dtype=np.float64) / self.dim)
        if self.scaling is not None:
            inv_freq = self.scaling.apply(inv_freq, self.theta)
        return inv_freq.astype(np.float32)

    def declare(self, program: Program, name: str) -> Buffer:
        """Declare the angles of a run's positions; every layer of this rotation reads the same buffer."""
        return program.rope_angles(name, self.inv_freq(), 1.0 if self.scaling is None else self.scaling.magnitude)


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
