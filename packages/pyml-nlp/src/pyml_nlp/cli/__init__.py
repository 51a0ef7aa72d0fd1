"""The commands ``pyml``, ``pyml-infer`` and ``pyml-bench``.

Modules here import nothing but click; the rest comes when it is needed, so that ``--help`` is instant.
"""

import sys

from . import ending

if "".join(sys.argv[:1]).rpartition("/")[2] in ("pyml", "pyml-infer", "pyml-bench", "pyml-audit"):
    ending.begin()  # before their scripts import anything else
