"""On a terminal: a newline after the text, and a progress bar that leaves nothing behind."""

from __future__ import annotations

import os
import pty
from pathlib import Path
from typing import Any

ARGUMENTS = ("--prompt", "the cat", "--max-tokens", "5", "--temperature", "0")


def read_all(terminal: int) -> bytes:
    """Everything written to the other side until it was closed."""
    data = b""
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:
            return data
        if not part:
            return data
        data += part


def on_terminal(commands: Any, stream: str, *arguments: object) -> tuple[bytes, Any]:
    terminal, side = pty.openpty()
    result = commands.infer(*arguments, **{stream: side})
    os.close(side)
    data = read_all(terminal)
    os.close(terminal)
    return data, result


def test_newline_after_the_text(commands: Any, model: Path) -> None:
    plain = commands.infer(model, *ARGUMENTS, "-q").stdout
    for flags in ((), ("--stream",)):
        shown, _ = on_terminal(commands, "stdout", model, *ARGUMENTS, "-q", *flags)
        assert shown.replace(b"\r\n", b"\n") == plain + b"\n"


def test_progress_bar(commands: Any, model: Path) -> None:
    shown, result = on_terminal(commands, "stderr", model, *ARGUMENTS)
    assert result.code == 0
    assert b"Loading [" in shown
    assert b"100%" in shown
    assert b"\r\x1b[K" in shown


def test_no_progress_bar_when_quiet(commands: Any, model: Path) -> None:
    shown, _ = on_terminal(commands, "stderr", model, *ARGUMENTS, "-q")
    assert shown == b""
