"""Readers of model files. Files are untrusted: sizes are Python integers, compared with the real file before use."""
