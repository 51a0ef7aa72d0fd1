"""Texts in files and on stdin: bounds, byte order marks, JSON."""

from __future__ import annotations

import io
import os
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO, cast

import click
import pytest

from pyml_core.errors import PymlError
from pyml_nlp import text_files
from pyml_nlp.cli import batch_file, chat_options, lines, options
from pyml_nlp.cli.task import Chat
from pyml_nlp.text_files import NoJSON, decoded, parse_json, read_bounded, read_text

MARK = b"\xef\xbb\xbf"


class Endless(io.RawIOBase):
    """Zeros without an end, counted."""

    def __init__(self) -> None:
        self.given = 0

    def read(self, size: int | None = -1) -> bytes:
        assert size is not None
        assert size > 0
        self.given += size
        return bytes(size)

    readline = read


def test_decoded() -> None:
    assert decoded("ü".encode()) == decoded(MARK + "ü".encode()) == "ü"
    assert decoded(MARK + MARK) == "\ufeff"
    assert decoded(b"a" + MARK) == "a\ufeff"
    for data, message in (
        (b"ab\xff", "expected UTF-8, got byte 0xff at offset 2"),
        (MARK + b"ab\xc3", "expected UTF-8, got byte 0xc3 at offset 5"),
        ("text".encode("utf-16"), "expected UTF-8, got UTF-16"),
        ("\ufefftext".encode("utf-16-be"), "expected UTF-8, got UTF-16"),
    ):
        with pytest.raises(ValueError, match=message):
            decoded(data)


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_bounds(size: int) -> None:
    data = bytes(size)
    for limit in (size, size + 1, 4 << 20):
        assert read_bounded(io.BytesIO(data), limit) == data
    if size:
        with pytest.raises(ValueError, match=f"expected at most {size - 1} bytes, got more"):
            read_bounded(io.BytesIO(data), size - 1)


def test_what_is_too_large_is_not_read() -> None:
    source = Endless()
    with pytest.raises(ValueError, match="expected at most 1000 bytes, got more"):
        read_bounded(cast("BinaryIO", source), 1000)
    assert source.given < 2 << 20


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(MARK + b"zwei\r\nZeilen")
    assert read_text(str(path)) == "zwei\r\nZeilen"
    for content, limit, message in (
        (b"abc", 2, "expected at most 2 bytes, got more"),
        (b"\xff", 9, "expected UTF-8, got"),
    ):
        path.write_bytes(content)
        with pytest.raises(PymlError, match=f"^{path}: {message}"):
            read_text(str(path), limit)
    with pytest.raises(PymlError, match=r"^x{247}\.\.\.: File name too long$"):
        read_text("x" * 5000)
    with pytest.raises(PymlError, match="null byte"):
        read_text("a\0b")
    with pytest.raises(PymlError, match=f"^{tmp_path}: Is a directory$"):
        read_text(str(tmp_path))


def test_a_pipe(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_bytes(MARK + b"x" * 100_000))
    writer.start()
    assert read_text(str(path)) == "x" * 100_000
    writer.join()


def test_json() -> None:
    assert parse_json('{"a": [1, -2.5, "x"]}') == {"a": [1, -2.5, "x"]}
    assert parse_json("1" + "0" * 639) == 10**639
    with pytest.raises(NoJSON, match="expected JSON: Expecting value: line 1 column 1"):
        parse_json("x")
    for text, message in (
        ("[" * 100_000, "expected JSON of fewer levels, got too many to read"),
        ("9" * 641, "expected integers of at most 640 digits, got one of 641"),
        ("9" * 9000, "expected integers of at most 640 digits, got one of 9000"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            parse_json(text)
        assert not isinstance(caught.value, NoJSON)


# ---- where the commands read


def stdin(monkeypatch: pytest.MonkeyPatch, data: Any) -> None:
    buffer = io.BytesIO(data) if isinstance(data, bytes) else data
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=buffer, isatty=lambda: False))


def test_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin(monkeypatch, MARK + b"text")
    assert options.read_stdin() == "text"
    stdin(monkeypatch, Endless())
    with pytest.raises(click.UsageError, match="stdin: expected at most 33554432 bytes, got more"):
        options.read_stdin()


def no_interrupt() -> None:
    raise AssertionError


def test_lines_of_a_chat(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin(monkeypatch, MARK + b"one\r\n" + MARK + b"two")
    assert list(lines.messages(lines.Piped(False).read, no_interrupt)) == ["one", "\ufefftwo"]
    stdin(monkeypatch, "text".encode("utf-16"))
    with pytest.raises(click.UsageError, match="stdin: expected UTF-8, got UTF-16"):
        list(lines.messages(lines.Piped(False).read, no_interrupt))
    stdin(monkeypatch, Endless())
    with pytest.raises(click.UsageError, match="stdin: expected lines of at most 33554432 bytes, got more"):
        next(lines.messages(lines.Piped(False).read, no_interrupt))


def test_batch_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "batch.jsonl"
    path.write_bytes(MARK + b'{"prompt": "a"}\r\n{"prompt": "b"}')
    assert [item.prompt for item in batch_file.read(str(path))] == ["a", "b"]
    monkeypatch.setattr(batch_file, "MAX_FILE", path.stat().st_size)
    assert len(batch_file.read(str(path))) == 2
    monkeypatch.setattr(batch_file, "MAX_FILE", path.stat().st_size - 1)
    with pytest.raises(PymlError, match=rf"batch\.jsonl: expected at most {path.stat().st_size - 1} bytes, got more"):
        batch_file.read(str(path))


def test_tools_and_variables(tmp_path: Path) -> None:
    path = tmp_path / "tools.json"
    path.write_bytes(MARK + b'[{"type": "function"}]')

    def asked(tools: Path | None, *arguments: str) -> Chat | None:
        name = None if tools is None else str(tools)
        return chat_options.check_chat(
            {"chat": True, "interactive": False, "system": None, "tools": name, "chat_arg": arguments}
        )

    found = asked(path, "a=true", "b=[1", "c=text", "d=x=y", f"e={'9' * 600}")
    assert found is not None
    assert found.options.tools == [{"type": "function"}]
    assert found.options.variables == {"a": True, "b": "[1", "c": "text", "d": "x=y", "e": int("9" * 600)}
    for argument, message in (
        ("x=" + "[" * 100_000, "invalid value 'x=\\[{73}\\.\\.\\.' for '--chat-arg': expected JSON of fewer levels"),
        ("x=" + "9" * 5000, "for '--chat-arg': expected integers of at most 640 digits, got one of 5000"),
        ("no" * 5000, "invalid value 'nono.{60,80}' for '--chat-arg': expected NAME=VALUE"),
    ):
        with pytest.raises(click.UsageError, match=message) as caught:
            asked(None, argument)
        assert len(caught.value.format_message()) < 300
    for content, message in (
        (b"[" * 9000, "expected a JSON list of functions: expected JSON of fewer levels"),
        (b"[5]", "expected a JSON list of functions, each an object"),
        (b"{", "expected a JSON list of functions: expected JSON: "),
    ):
        path.write_bytes(content)
        with pytest.raises(PymlError, match=message):
            asked(path)


def test_a_text_is_as_long_as_the_tokenizers_limit() -> None:
    from pyml_nlp.tokenizer.base import MAX_TEXT

    assert text_files.MAX_BYTES == 4 * MAX_TEXT
