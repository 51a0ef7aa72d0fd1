"""Rotary position embedding: the frequencies of a head's rotation, and their scaling for longer contexts.

Source: Su et al. 2021, arXiv 2104.09864. The rotation itself is part of :meth:`pyml_core.Program.prepare_qkv`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError

if TYPE_CHECKING:
    from pyml_core.program import Program
    from pyml_core.records import Buffer

F32Array = npt.NDArray[np.float32]

F64Array = npt.NDArray[np.float64]


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
        original_context: context length of the pretraining.
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
    """Fast pairs kept, slow pairs divided by ``factor``, a linear ramp over the pairs between them.

    Attributes:
        factor: divisor of the slow pairs' frequencies.
        original_context: context length of the pretraining.
        beta_fast: pairs with more turns than this within ``original_context`` are kept.
        beta_slow: pairs with fewer turns than this are divided.
        truncate: whether the ramp begins and ends at whole pairs.
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
    """LongRoPE: every frequency divided by its own factor; short and long sequences have a set of factors each.

    Sequences of more than ``original_context`` tokens are long. So there are two sets of frequencies, between which
    :class:`pyml_nn.Model` chooses for each sequence; see :attr:`pyml_nn.config.Dimensions.long_from`.

    Attributes:
        short_factors: one factor for each pair.
        long_factors: one factor for each pair.
        original_context: context length of the pretraining.
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
    """Every frequency divided by its own factor, as in GGUF files with ``rope_freqs.weight``."""

    factors: tuple[float, ...]
    magnitude: float = 1.0

    def apply(self, inv_freq: F64Array, theta: float) -> F64Array:
        """The scaled frequencies."""
        return inv_freq / np.array(self.factors, np.float64)


Scaling = LinearScaling | Llama3Scaling | YarnScaling | LongScaling | FactorScaling


@dataclass(frozen=True)
class Rope:
    """A rotation of the first elements of each head.

    Attributes:
        dim: number of rotated elements, from the first one; even.
        theta: base of the wavelengths.
        scaling: scaling of the frequencies, or None.
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

        With LongRoPE: frequencies of short and of long sequences (2, dim / 2).
        """
        inv_freq = self.theta ** (-np.arange(0, self.dim, 2, dtype=np.float64) / self.dim)
        if self.scaling is not None:
            inv_freq = self.scaling.apply(inv_freq, self.theta)
        return inv_freq.astype(np.float32)

    def declare(self, program: Program, name: str) -> Buffer:
        """Declare the angles of a run's positions, in a buffer that all layers with this rotation read."""
        return program.rope_angles(name, self.inv_freq(), 1.0 if self.scaling is None else self.scaling.magnitude)
