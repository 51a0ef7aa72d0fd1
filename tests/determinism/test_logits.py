"""Logits are bit-identical however they are computed: threads, chunks, batches, cache reuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.determinism import determinism_checks as checks
from tests.determinism.determinism_checks import Subject


@pytest.fixture(scope="module", params=checks.CASES, ids=lambda case: "-".join(case))
def tiny(request: pytest.FixtureRequest) -> Subject:
    return checks.tiny_subject(*request.param)


@pytest.fixture(scope="module", params=checks.BLOCK_TYPES)
def block_type(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return checks.block_type_subject(request.param, tmp_path_factory.mktemp("blocks"))


@pytest.mark.parametrize("check", checks.CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_tiny_model(tiny: Subject, check: Callable[[Subject], None]) -> None:
    check(tiny)


def test_block_type(block_type: Subject) -> None:
    checks.check_quickly(block_type)


def test_real_model(smollm2_gguf: Path) -> None:
    from pyml_nlp.formats.gguf import GGUFFile

    ids = list(range(1000, 1000 + 7 * 140, 7))
    checks.check_quickly(checks.gguf_subject("SmolLM2", GGUFFile(smollm2_gguf), ids))
