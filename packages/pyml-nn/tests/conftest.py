"""The fixtures of all tests of this package; a module of another name, because type checkers know one conftest only."""

from nn_fixtures import executor

__all__ = ["executor"]
