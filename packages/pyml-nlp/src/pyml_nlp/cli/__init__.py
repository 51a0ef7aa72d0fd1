"""The commands ``pyml``, ``pyml-infer`` and ``pyml-bench``.

Modules here import nothing but click; the rest comes when it is needed, so that ``--help`` is instant.
"""
