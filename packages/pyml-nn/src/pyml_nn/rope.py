"""Rotary position embedding: the frequencies of a head's rotation, and their scaling to longer contexts.

Source: Su et al. 2021, arXiv 2104.09864. The rotation itself is part of :meth:`pyml_core.Program.prepare_qkv`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .config import MAX_CONTEXT, ConfigError, Fields

if TYPE_CHECKING:
    from pyml_core.program import Buffer, Program

F32Array = npt.NDArray[np.float32]
F64Array = npt.NDArray[np.float64]

MAX_THETA = 1e12
MAX_FACTOR = 1e6


@dataclass(frozen=True)
class LinearScaling:
    """Positions divided by ``factor``. Source: Chen et al. 2023, arXiv 2306.15595."""

    factor: float

    def apply(self, inv_freq: F64Array) -> F64Array:
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

    Source: ``_compute_llama3_parameters`` of transformers' ``modeling_rope_utils.py``.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int

    def apply(self, inv_freq: F64Array) -> F64Array:
        """The scaled frequencies."""
        turns = self.original_context * inv_freq / (2 * math.pi)
        smooth = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        smooth = np.clip(smooth, 0.0, 1.0)
        return (1 - smooth) * inv_freq / self.factor + smooth * inv_freq


@dataclass(frozen=True)
class FactorScaling:
    """Every frequency divided by its own factor: what GGUF files store in ``rope_freqs.weight``."""

    factors: tuple[float, ...]

    def apply(self, inv_freq: F64Array) -> F64Array:
        """The scaled frequencies."""
        return inv_freq / np.array(self.factors, np.float64)


@dataclass(frozen=True)
class Rope:
    """One rotation: of how many elements of a head, from which base, scaled how.

    Attributes:
        dim: elements of a head that are rotated; even.
        theta: base of the wavelengths.
        scaling: how frequencies are scaled, or None.
    """

    dim: int
    theta: float
    scaling: LinearScaling | Llama3Scaling | FactorScaling | None = None

    def __post_init__(self) -> None:
        if self.dim % 2:
            raise ConfigError(f"head_dim: RoPE rotates pairs, expected an even number, found {self.dim}")

    def inv_freq(self) -> F32Array:
        """``theta ** (-2 i / dim)``, scaled: radians a position for pair i, float32 (dim / 2)."""
        inv_freq = self.theta ** (-np.arange(0, self.dim, 2, dtype=np.float64) / self.dim)
        if self.scaling is not None:
            inv_freq = self.scaling.apply(inv_freq)
        return inv_freq.astype(np.float32)

    def declare(self, program: Program, name: str) -> Buffer:
        """Declare the angles of a run's positions; every layer of this rotation reads the same buffer."""
        return program.rope_angles(name, self.inv_freq())


def hf_rope(fields: Fields, dim: int, context_length: int, default_theta: float) -> Rope:
    """The one rotation of a ``config.json``: ``rope_parameters``, or older files' ``rope_theta`` and ``rope_scaling``.

    Raises:
        ConfigError: an unknown scaling, an unknown key in it, a value out of range, or the two spellings disagree.
    """
    theta = fields.number("rope_theta", 1, MAX_THETA, default=default_theta)
    fields.fixed("partial_rotary_factor", 1)
    ropes = [
        hf_rope_section(section, dim, context_length, theta)
        for key in ("rope_parameters", "rope_scaling")
        if (section := fields.section(key)) is not None
    ]
    if len(ropes) == 2 and ropes[0] != ropes[1]:
        raise fields.error("rope_scaling", "says something else than rope_parameters")
    return ropes[0] if ropes else Rope(dim, theta)


def hf_rope_section(section: Fields, dim: int, context_length: int, default_theta: float) -> Rope:
    """The rotation that one ``rope_parameters`` or ``rope_scaling`` object describes."""
    section.fixed("partial_rotary_factor", 1)
    theta = section.number("rope_theta", 1, MAX_THETA, default=default_theta)
    kinds = {kind: kind for kind in ("default", "linear", "llama3")}
    old_spelling = section.choice("type", kinds, default="default")
    kind = section.choice("rope_type", kinds, default=old_spelling)
    scaling: LinearScaling | Llama3Scaling | None = None
    if kind == "linear":
        scaling = LinearScaling(_factor(section))
    elif kind == "llama3":
        low = section.number("low_freq_factor", 1e-3, MAX_FACTOR)
        high = section.number("high_freq_factor", 1e-3, MAX_FACTOR)
        if high <= low:
            raise section.error("high_freq_factor", f"expected more than low_freq_factor ({low:g}), found {high:g}")
        original = section.integer("original_max_position_embeddings", 1, MAX_CONTEXT, default=context_length)
        scaling = Llama3Scaling(_factor(section), low, high, original)
    section.close()
    return Rope(dim, theta, scaling)


def gguf_rope(fields: Fields, dim: int, default_theta: float) -> Rope:
    """The one rotation of GGUF metadata: ``rope.freq_base``, ``rope.dimension_count``, ``rope.scaling.*``."""
    count = fields.integer("rope.dimension_count", 1, MAX_CONTEXT, default=dim)
    if count != dim:
        raise fields.error("rope.dimension_count", f"expected the whole head ({dim}), found {count}")
    theta = fields.number("rope.freq_base", 1, MAX_THETA, default=default_theta)
    # As in llama.cpp: a factor without a type is a linear one, a factor of 0 is none.
    linear = fields.choice("rope.scaling.type", {"none": False, "linear": True}, default="linear")
    factor = fields.number(
        "rope.scaling.factor", 0, MAX_FACTOR, default=fields.number("rope.scale_linear", 0, MAX_FACTOR, default=0)
    )
    if linear and factor not in (0, 1):
        return Rope(dim, theta, LinearScaling(factor))
    return Rope(dim, theta)


def with_factors(rope: Rope, factors: F32Array) -> Rope:
    """This rotation with a GGUF file's own frequency factors, float32 (dim / 2).

    Raises:
        ConfigError: the metadata scales too, or a factor is not a finite number above 0.
    """
    if rope.scaling is not None:
        raise ConfigError("rope_freqs.weight: the metadata's rope.scaling.type scales the frequencies as well")
    if not (np.isfinite(factors) & (factors > 0)).all():
        raise ConfigError("rope_freqs.weight: expected finite factors above 0")
    return replace(rope, scaling=FactorScaling(tuple(map(float, factors))))


def _factor(section: Fields) -> float:
    return section.number("factor", 1e-3, MAX_FACTOR)
