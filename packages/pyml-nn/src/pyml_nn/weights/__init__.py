"""Weights: where they come from, their names and shapes, and how a model reads them."""

from __future__ import annotations

from .names import NameRules
from .reader import SourceWeights
from .source import ArrayWeights, WeightSource
from .spec import Spec
from .weights import Weights

__all__ = ["ArrayWeights", "NameRules", "SourceWeights", "Spec", "WeightSource", "Weights"]
