"""Tests of the whole, and helpers that they share: modules are imported by their full names."""
