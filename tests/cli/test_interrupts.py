"""Texts that end before their time: Ctrl-C, a deadline, a reader that goes away, a full disk."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

LONG = ("--prompt", "the cat in the hat", "--max-tokens", "200000", "--temperature", "0", "--threads", "1")


def wait_for(process: Any, start: bytes) -> None:
    """Read stderr until a line begins like this."""
    seen = b""
    for line in process.stderr:
        seen += line
        if line.startswith(start):
            return
    raise AssertionError(seen.decode())


def finish(process: Any) -> tuple[bytes, str]:
    """Wait for the end; returns the rest of stdout and stderr."""
    try:
        stdout, stderr = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    text = stderr.decode()
    assert "Traceback" not in text, text
    return stdout or b"", text


@pytest.mark.parametrize("flags", [(), ("--stream",), ("--json",)], ids=["plain", "stream", "json"])
def test_ctrl_c_keeps_the_text(flags: tuple[str, ...], commands: Any, endless: Path) -> None:
    with commands.start("pyml-infer", endless, *LONG, "-v", *flags) as process:
        for _ in range(5):  # tokens of the text
            wait_for(process, b"[perf] generator.decode_step")
        process.send_signal(signal.SIGINT)
        stdout, stderr = finish(process)
    assert process.returncode == 130
    text = stdout.decode()
    if "--json" in flags:
        found = json.loads(text)
        assert found["finish_reason"] == "cancelled"
        assert found["tokens"] >= 5
        text = found["text"]
    assert len(text) >= 3
    assert "Error" not in stderr


def test_ctrl_c_in_the_prefill(commands: Any, endless: Path, tmp_path: Path) -> None:
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("the cat in the hat " * 4000)
    with (
        prompt.open() as stdin,
        commands.start("pyml-infer", endless, "--max-tokens", 5, stdin=stdin) as process,
    ):
        wait_for(process, b"Loaded ")
        process.send_signal(signal.SIGINT)
        stdout, _ = finish(process)
    assert (process.returncode, stdout) == (130, b"")


def test_ctrl_c_while_reading_stdin(commands: Any, model: Path) -> None:
    side, terminal = pty.openpty()
    with commands.start("pyml-infer", model, stdin=terminal) as process:
        wait_for(process, b"Reading prompt from stdin... (Ctrl-D ends it)")
        process.send_signal(signal.SIGINT)
        stdout, stderr = finish(process)
    os.close(side)
    os.close(terminal)
    assert (process.returncode, stdout) == (130, b"")
    assert stderr.strip() == "Error: interrupted"


def test_ctrl_c_in_a_batch(commands: Any, endless: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("the cat\nin the hat\n")
    arguments = ("--batch-file", prompts, "--max-tokens", 200000, "--temperature", 0, "--threads", 1, "-v")
    with commands.start("pyml-infer", endless, *arguments) as process:
        wait_for(process, b"[perf] generator.decode_step token=4")
        process.send_signal(signal.SIGINT)
        stdout, _ = finish(process)
    assert process.returncode == 130
    lines = stdout.decode()
    assert lines.startswith("[0] ")
    assert "\n[1] " in lines


def test_ctrl_c_in_a_benchmark(commands: Any, endless: Path) -> None:
    with commands.start("pyml-bench", endless, "-p", 0, "-n", 200000, "-v") as process:
        wait_for(process, b"[perf] model.forward")
        process.send_signal(signal.SIGINT)
        stdout, stderr = finish(process)
    assert (process.returncode, stdout) == (130, b"")
    assert stderr.splitlines()[-1] == "Error: interrupted"


@pytest.mark.parametrize("flags", [("--json",), ("--stream",), ()], ids=["json", "stream", "plain"])
def test_timeout(flags: tuple[str, ...], commands: Any, endless: Path) -> None:
    result = commands.infer(endless, *LONG, "--timeout", "1", *flags)
    assert result.code == 0
    assert result.stderr.endswith(" tokens/s), stopped at the timeout\n")
    assert result.text
    if "--json" in flags:
        found = json.loads(result.text)
        assert found["finish_reason"] == "timeout"
        assert 0 < found["tokens"] < 200000


def test_timeout_in_the_prefill(commands: Any, model: Path) -> None:
    found = json.loads(commands.infer(model, *LONG, "--timeout", "1e-9", "--json").text)
    assert (found["finish_reason"], found["tokens"], found["text"]) == ("timeout", 0, "")


def test_timeout_of_a_batch(commands: Any, endless: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("the cat\nin the hat\n")
    result = commands.infer(endless, "--batch-file", prompts, "--max-tokens", 200000, "--timeout", "1", "--json")
    assert result.code == 0
    assert [json.loads(line)["finish_reason"] for line in result.text.split("\n")[:-1]] == ["timeout", "timeout"]


@pytest.mark.parametrize("flags", [("--stream",), ("--echo",)], ids=["stream", "echo"])
def test_a_reader_that_goes_away(flags: tuple[str, ...], commands: Any, endless: Path) -> None:
    with commands.start("pyml-infer", endless, *LONG, "--timeout", "30", "-q", *flags) as process:
        process.stdout.read(1)
        process.stdout.close()
        process.stdout = None
        if "--echo" in flags:
            process.send_signal(signal.SIGINT)  # the rest of the text is written at its end
        _, stderr = finish(process)
    assert stderr == ""
    # The interrupt may come before there is any text to fail on.
    assert process.returncode in ((0, 130) if "--echo" in flags else (0,))


def test_nobody_reads_at_all(commands: Any, model: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        result = commands.infer(model, "--prompt", "x", "--max-tokens", 3, "-q", stdout=writing)
    finally:
        os.close(writing)
    assert (result.code, result.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk(commands: Any, model: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        result = commands.infer(model, "--prompt", "x", "--max-tokens", 3, "-q", stdout=full)
    assert (result.code, result.error) == (1, "Error: stdout: the text cannot be written: No space left on device")


def test_a_closed_stdout(commands: Any, model: Path) -> None:
    with commands.start("pyml-infer", model, "--prompt", "x", "-q", shell=">&-") as process:
        stdout, stderr = finish(process)
    assert (process.returncode, stdout) == (1, b"")
    assert stderr.strip() == "Error: stdout: it is closed, the text cannot be written"


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_stderr_that_nobody_reads(unbuffered: str, commands: Any, model: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    settings = {"PYTHONUNBUFFERED": unbuffered}
    try:
        result = commands.infer(model, "--prompt", "x", "--max-tokens", 3, "-vv", stderr=writing, env=settings)
    finally:
        os.close(writing)
    assert result.code == 0
    assert result.text
