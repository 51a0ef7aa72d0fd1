"""The type of keyword arguments that change sampling options, for annotations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict


class SamplingKeywords(TypedDict, total=False):
    """The fields of :class:`.SamplingOptions`."""

    temperature: float | None
    top_k: int | None
    top_p: float | None
    repetition_penalty: float | None
    seed: int | None
    min_p: float | None
    typical_p: float | None
    frequency_penalty: float | None
    presence_penalty: float | None
    logit_bias: Mapping[int, float] | None
    order: Sequence[str] | None
