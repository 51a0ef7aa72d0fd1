"""Weights: where they come from, their names and shapes, and how a model reads them."""

from __future__ import annotations

from .names import NameRules
from .reader import Weights
from .source import ArrayWeights, WeightSource
from .spec import Spec

__all__ = ["ArrayWeights", "NameRules", "Spec", "WeightSource", "Weights"]
