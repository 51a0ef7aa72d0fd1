"""Reading a model's rotation from a ``config.json``."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType

from ..layers.rope import LinearScaling, Llama3Scaling, LongScaling, Rope, Scaling, YarnScaling
from .fields import MAX_CONTEXT, MAX_FACTOR, MAX_THETA, MIN_FACTOR, Fields
from .table import Known, Reader

KINDS = MappingProxyType({kind: kind for kind in ("default", "linear", "dynamic", "llama3", "yarn")})
"""Names of scalings in a ``config.json`` -> kinds of scalings."""


def rope(
    default_theta: float = 10_000.0,
    *,
    kinds: Mapping[str, str] = KINDS,
    partial: float | None = None,
    original_context: Reader | None = None,
    more: Collection[str] = (),
) -> Reader:
    """Read the rotation that all layers share: ``rope_parameters``, or ``rope_theta`` and ``rope_scaling``.

    Args:
        default_theta: ``rope_theta`` of a file without that key.
        kinds: names of the scalings that the architecture supports -> kinds of scalings.
        partial: ``partial_rotary_factor`` of a file without that key, which leaves the end of each head unrotated;
            None: the architecture rotates whole heads.
        original_context: reads the context length of the pretraining, if the architecture has a key of its own for it.
        more: keys of the object that the architecture reads itself.

    The reader raises :class:`ConfigError` for an unknown scaling, an unknown key in it, a value out of range, and
    spellings that disagree.
    """

    def reader(fields: Fields, known: Known) -> Rope:
        head_dim, context_length = known["head_dim"], known["context_length"]
        original = None if original_context is None else original_context(fields, known)
        theta = fields.number("rope_theta", 1, MAX_THETA, default=default_theta)
        share = _share(fields, partial)
        ropes = [
            _section(
                section, head_dim, context_length, theta, kinds, None if partial is None else share, original, more
            )
            for key in ("rope_parameters", "rope_scaling")
            if (section := fields.section(key)) is not None
        ]
        if len(ropes) == 2 and ropes[0] != ropes[1]:
            raise fields.error("rope_scaling", "differs from rope_parameters")
        return ropes[0] if ropes else Rope(int(head_dim * share), theta)

    return reader


def rope_section(section: Fields, head_dim: int, context_length: int, default_theta: float) -> Rope:
    """Read the rotation that one ``rope_parameters`` or ``rope_scaling`` object describes."""
    return _section(section, head_dim, context_length, default_theta, KINDS, None, None)


def _section(
    section: Fields,
    head_dim: int,
    context_length: int,
    default_theta: float,
    kinds: Mapping[str, str],
    partial: float | None,
    original_context: int | None,
    more: Collection[str] = (),
) -> Rope:
    dim = int(head_dim * _share(section, partial))
    theta = section.number("rope_theta", 1, MAX_THETA, default=default_theta)
    old_spelling = section.choice("type", kinds, default="default")
    kind = section.choice("rope_type", kinds, default=old_spelling)
    scaling: Scaling | None = None
    if kind == "linear":
        scaling = LinearScaling(_factor(section))
    elif kind == "dynamic":  # no effect, because the context ends where it begins: see hf.context
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
    section.close(("finetuned", *more))
    return Rope(dim, theta, scaling)


def _llama3(section: Fields, dim: int, context_length: int, original: int) -> Llama3Scaling:
    low = section.number("low_freq_factor", MIN_FACTOR, MAX_FACTOR)
    high = section.number("high_freq_factor", MIN_FACTOR, MAX_FACTOR)
    if high <= low:
        raise section.error("high_freq_factor", f"expected more than low_freq_factor ({low:g}), found {high:g}")
    return Llama3Scaling(_factor(section), low, high, original)


def _yarn(section: Fields, dim: int, context_length: int, original: int) -> YarnScaling:
    factor = _factor(section)
    # Some files have two coefficients; their quotient counts, and only if both are present.
    top, bottom = (section.number(key, 0, MAX_FACTOR, default=0) for key in ("mscale", "mscale_all_dim"))
    magnitude = yarn_magnitude(factor, top) / yarn_magnitude(factor, bottom) if top and bottom else None
    magnitude = yarn_magnitude(factor) if magnitude is None else magnitude
    fast = section.number("beta_fast", MIN_FACTOR, MAX_FACTOR, default=32)
    slow = section.number("beta_slow", MIN_FACTOR, MAX_FACTOR, default=1)
    if fast <= slow:
        raise section.error("beta_fast", f"expected more than beta_slow ({slow:g}), found {fast:g}")
    return YarnScaling(
        factor, original, fast, slow, section.flag("truncate", True),
        section.number("attention_factor", 1e-6, MAX_FACTOR, default=magnitude),
    )  # fmt: skip


def yarn_magnitude(factor: float, coefficient: float = 1.0) -> float:
    """The factor of rotated vectors that YaRN computes from the factor of the context."""
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


def _share(fields: Fields, default: float | None) -> float:
    """Read ``partial_rotary_factor``, the rotated share of a head; without a default, it must be 1."""
    if default is not None:
        return fields.number("partial_rotary_factor", 1e-3, 1, default=default)
    fields.fixed("partial_rotary_factor", 1)
    return 1.0


def _factor(section: Fields) -> float:
    return section.number("factor", MIN_FACTOR, MAX_FACTOR)
