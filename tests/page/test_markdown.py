"""The unit tests of the page's Markdown, by node."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

NODE = shutil.which("node")


@pytest.mark.skipif(NODE is None, reason="node is not installed")
def test_markdown() -> None:
    tests = Path(__file__).with_name("markdown.test.mjs")
    found = subprocess.run([str(NODE), "--test", str(tests)], capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stdout[-4000:]
    assert "# pass 39" in found.stdout
