"""Tiny random models: a file for each family, and the parts that they share (``model.py``)."""
