"""Tests that take as long as they are told to: ``python -m tests.soak.serving --seconds 600``."""
