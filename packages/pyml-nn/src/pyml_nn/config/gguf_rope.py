"""Reading a model's rotation from GGUF metadata, and the frequency factors that GGUF files store as tensors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError
from ..layers.rope import FactorScaling, LinearScaling, Rope, YarnScaling
from .fields import MAX_CONTEXT, MAX_FACTOR, MAX_THETA, MIN_FACTOR, Fields
from .hf_rope import yarn_magnitude
from .table import Known, Reader

F32Array = npt.NDArray[np.float32]


def rope(default_theta: float = 10_000.0, *, partial: bool = False, log_multiplier: bool = False) -> Reader:
    """Read the rotation that all layers share: ``rope.freq_base``, ``rope.dimension_count``, ``rope.scaling.*``.

    Args:
        default_theta: base of a file without ``rope.freq_base``.
        partial: whether ``rope.dimension_count`` may be less than the whole head.
        log_multiplier: whether YaRN's magnitude is divided by the one for ``rope.scaling.yarn_log_multiplier``, the
            ``mscale_all_dim`` of a ``config.json`` whose ``mscale`` is 1.
    """

    def reader(fields: Fields, known: Known) -> Rope:
        head_dim = known["head_dim"]
        dim = fields.integer("rope.dimension_count", 1, MAX_CONTEXT, default=head_dim)
        if dim > head_dim or (dim != head_dim and not partial):
            expected = f"at most {head_dim}" if partial else f"the whole head ({head_dim})"
            raise fields.error("rope.dimension_count", f"expected {expected}, found {dim}")
        theta = fields.number("rope.freq_base", 1, MAX_THETA, default=default_theta)
        # As in llama.cpp, a factor without a type means linear scaling, and a factor of 0 means no scaling.
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
            return Rope(dim, theta, _yarn(fields, factor, known["context_length"], log_multiplier))
        return Rope(dim, theta, LinearScaling(factor) if factor != 1 else None)

    return reader


def _yarn(fields: Fields, factor: float, context_length: int, log_multiplier: bool) -> YarnScaling:
    for key in ("yarn_ext_factor", "yarn_attn_factor"):
        fields.fixed(f"rope.scaling.{key}", 1)
    magnitude = yarn_magnitude(factor)
    if log_multiplier:
        coefficient = fields.number("rope.scaling.yarn_log_multiplier", 0, MAX_FACTOR, default=0)
        magnitude /= yarn_magnitude(factor, coefficient)
    else:
        fields.fixed("rope.scaling.yarn_log_multiplier", 0)
    return YarnScaling(
        factor,
        fields.integer("rope.scaling.original_context_length", 1, MAX_CONTEXT, default=context_length),
        fields.number("rope.scaling.yarn_beta_fast", MIN_FACTOR, MAX_FACTOR, default=32),
        fields.number("rope.scaling.yarn_beta_slow", MIN_FACTOR, MAX_FACTOR, default=1),
        magnitude=magnitude * fields.number("rope.scaling.attn_factor", 1e-6, MAX_FACTOR, default=1),
    )


def with_factors(rope: Rope, factors: F32Array) -> Rope:
    """Return this rotation with the frequency factors of a GGUF file, float32 (dim / 2).

    Raises:
        ConfigError: the metadata scales the frequencies as well, or a factor is out of range.
    """
    if rope.scaling is not None:
        raise ConfigError("rope_freqs.weight: the metadata's rope.scaling.type scales the frequencies as well")
    return replace(rope, scaling=FactorScaling(checked_factors("rope_freqs.weight", factors)))


def checked_factors(name: str, factors: F32Array) -> tuple[float, ...]:
    """Return the frequency factors of a GGUF file; ConfigError unless all are finite and at least ``MIN_FACTOR``."""
    bad = factors[~(np.isfinite(factors) & (factors >= np.float32(MIN_FACTOR)))]
    if bad.size:
        raise ConfigError(f"{name}: expected finite factors of at least {MIN_FACTOR:g}, found {bad[0]:g}")
    return tuple(map(float, factors))
