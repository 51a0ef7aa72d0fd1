"""The HTML report in a real browser, where there is one: every chart drawn, nothing on the console, no overflow."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from audit_makers import measurements

from pyml_nlp.audit.analyse import analyse
from pyml_nlp.audit.html import html

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PROBE = """<script>
document.querySelector("th button").click();
const root = document.documentElement;
root.dataset.overflow = root.scrollWidth - root.clientWidth;
root.dataset.numbers = /NaN|undefined|Infinity/.test(document.querySelector("main").innerHTML);
root.dataset.sorted = document.querySelectorAll("th[aria-sort]").length;
</script></body>"""


@pytest.mark.skipif(BROWSER is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_in_a_browser(width: int, tmp_path: Path) -> None:
    m = measurements()
    page = tmp_path / "report.html"
    page.write_text(html(m, analyse(m)).replace("</body>", PROBE), encoding="utf-8")
    command = [
        str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
        f"--window-size={width},900", "--enable-logging=stderr", "--v=0", "--dump-dom", page.as_uri(),
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in result.stderr
    found = dict(re.findall(r'data-(drawn|overflow|numbers|sorted)="([^"]*)"', result.stdout[:2000]))
    # Two charts of scaling and of heat, one of everything else.
    assert found == {"drawn": "9", "overflow": "0", "numbers": "false", "sorted": "1"}
