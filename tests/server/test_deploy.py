"""The files for systemd, Docker and nginx name options that the command has, and limits that the server has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pyml_nlp.cli.serve import KEY_VARIABLE, command
from pyml_nlp.server.http_limits import Limits

ROOT = Path(__file__).resolve().parents[2]
FILES = [
    *sorted(path for path in (ROOT / "deploy").iterdir() if path.is_file() and path.suffix != ".sh"),
    ROOT / "docs" / "serve-operations.md",
]
OTHERS = {"--build-arg", "--read-only", "--tmpfs", "--cap-drop", "--security-opt", "--time", "--system", "--now"}
"""Of docker, useradd and systemctl."""


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_options_exist(path: Path) -> None:
    known = {name for param in command.params for name in param.opts}
    lines = [line for line in path.read_text().splitlines() if "pip " not in line and "apt-get" not in line]
    lines = [line for line in lines if not line.lstrip().startswith(("HEALTHCHECK", "RUN", "&& useradd"))]
    found = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", "\n".join(lines)))
    assert found - OTHERS <= known
    for name in re.findall(r"PYML_SERVE_[A-Z_]*[A-Z]", path.read_text()):
        option = "--" + name.removeprefix("PYML_SERVE_").lower().replace("_", "-")
        assert name == KEY_VARIABLE or option in known


def test_limits_that_are_documented() -> None:
    page, limits = (ROOT / "docs" / "serve-operations.md").read_text(), Limits()
    for text in (
        f"| time for the headers | {limits.head_seconds:g} s |",
        f"| time for the body | {limits.body_seconds:g} s |",
        f"| connection without a request | {limits.idle_seconds:g} s |",
        f"| {limits.write_seconds:g} s after {limits.buffered_bytes >> 10} KiB wait for it |",
        f"| {limits.connections}; then",
        f"| {limits.reserved} more,",
    ):
        assert text in page


def test_the_proxy_closes_first() -> None:
    """A proxy that keeps connections longer than the server sends requests into those that the server closes."""
    found = re.search(r"keepalive_timeout (\d+)s", (ROOT / "deploy" / "nginx.conf").read_text())
    assert found is not None
    assert int(found[1]) < Limits().idle_seconds
