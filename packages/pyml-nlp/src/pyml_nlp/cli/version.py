"""``--version``."""

from __future__ import annotations

import platform

import pyml_core
import pyml_nlp
import pyml_nn
from pyml_core import cpu


def version() -> str:
    """The versions of the packages and of Python, and the CPU level."""
    packages = ", ".join(f"{module.__name__.replace('_', '-')} {module.__version__}" for module in (pyml_core, pyml_nn))
    return (
        f"pyml {pyml_nlp.__version__}\n"
        f"{packages}, pyml-nlp {pyml_nlp.__version__}; CPU level {cpu.level()}; Python {platform.python_version()}"
    )
