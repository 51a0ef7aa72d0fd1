"""Classes for other libraries. Importing this package imports none of them."""

from __future__ import annotations

from .ray_data import Generate

__all__ = ["Generate"]
