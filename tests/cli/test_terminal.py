"""On a terminal: a newline after the text, and a progress bar that leaves nothing behind."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
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


def test_text_streams_on_a_terminal(commands: Any, endless: Path) -> None:
    """The text appears while it is generated, unless --no-stream is given."""
    options = ("--prompt", "the cat", "--max-tokens", "200000", "--temperature", "0", "--threads", "1", "-q")
    terminal, side = pty.openpty()
    with commands.start("pyml-infer", endless, *options, stdout=side) as process:
        os.close(side)
        assert len(os.read(terminal, 1) + os.read(terminal, 1)) == 2
        assert process.poll() is None
        process.kill()
    os.close(terminal)
    terminal, side = pty.openpty()
    with commands.start("pyml-infer", endless, *options, "--no-stream", stdout=side) as process:
        os.close(side)
        assert select.select([terminal], [], [], 3)[0] == []
        process.send_signal(signal.SIGINT)
        assert len(read_all(terminal)) > 2
        assert process.wait(60) == 130
    os.close(terminal)


def test_json_on_a_terminal(commands: Any, model: Path) -> None:
    shown, result = on_terminal(commands, "stdout", model, *ARGUMENTS, "-q", "--json")
    assert (result.code, json.loads(shown)["finish_reason"]) == (0, "length")


def test_progress_bar(commands: Any, model: Path) -> None:
    shown, result = on_terminal(commands, "stderr", model, *ARGUMENTS)
    assert result.code == 0
    assert b"Loading [" in shown
    assert b"100%" in shown
    assert b"\r\x1b[K" in shown


def test_no_progress_bar_when_quiet(commands: Any, model: Path) -> None:
    shown, _ = on_terminal(commands, "stderr", model, *ARGUMENTS, "-q")
    assert shown == b""
