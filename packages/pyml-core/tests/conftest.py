"""The fixtures of this package's tests, imported from another module: type checkers accept only one conftest."""

from core_fixtures import level, pytest_report_header, rng

__all__ = ["level", "pytest_report_header", "rng"]
