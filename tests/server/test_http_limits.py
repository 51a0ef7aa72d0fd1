"""Limits of connections and of files."""

from __future__ import annotations

import resource
from typing import Any

import pytest

from pyml_nlp.server.http_limits import Limits

WANTED = 256 + 32 + 128
MANY = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("soft", "hard", "raised", "connections"),
    [
        (1024, 4096, 1024, 256),
        (MANY, MANY, MANY, 256),
        (64, 4096, WANTED, 256),
        (64, MANY, WANTED, 256),
        (WANTED, WANTED, WANTED, 256),
        (200, 300, 300, 300 - 32 - 128),
        (64, 64, 64, 8),
    ],
)
def test_files(monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, raised: int, connections: int) -> None:
    found = [(soft, hard)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: found[-1])

    def setrlimit(_: int, limits: Any) -> None:
        assert limits[1] == hard  # only root could raise it again
        found.append(limits)

    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    assert Limits().fitting().connections == connections
    assert found[-1][0] == raised
