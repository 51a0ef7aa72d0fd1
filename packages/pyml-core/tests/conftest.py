"""The fixtures of all tests of this package; a module of another name, because type checkers know one conftest only."""

from core_fixtures import level, pytest_report_header, rng

__all__ = ["level", "pytest_report_header", "rng"]
