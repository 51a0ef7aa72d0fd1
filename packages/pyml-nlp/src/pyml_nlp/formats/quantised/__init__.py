"""Weights that a folder's tool has quantised: several tensors of its files become one matrix of a block type."""

from .schemes import Quantised, quantised_weights

__all__ = ["Quantised", "quantised_weights"]
