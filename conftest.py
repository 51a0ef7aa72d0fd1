"""What holds for all tests: markers that follow from what a test uses, and a clean state."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator

import pytest

# A job in the background may have inherited "ignore", which tests that interrupt, and their processes, would keep.
signal.signal(signal.SIGINT, signal.default_int_handler)

REAL_MODELS = {"gemma_gguf", "gemma_hf_dir", "smollm2_gguf", "smollm2_hf_dir", "gpt2_dir", "gpt2_vocab_dir"}
PROCESSES = {"commands"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by its fixtures, and those of modules that import subprocess."""
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if fixtures & REAL_MODELS:
            item.add_marker(pytest.mark.model)
        if "level" in fixtures:
            item.add_marker(pytest.mark.levels)
        if fixtures & PROCESSES or hasattr(getattr(item, "module", None), "subprocess"):
            item.add_marker(pytest.mark.process)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Leave pyml's loggers as they were: a command that runs in the tests' process sets them up for itself."""
    logger = logging.getLogger("pyml")
    handlers, propagate, level = logger.handlers, logger.propagate, logger.level
    try:
        return (yield)
    finally:
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)
