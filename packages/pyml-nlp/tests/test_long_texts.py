"""Long texts: unchanged ids, in calls that Ctrl-C, cancel and deadlines end."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizer_makers import LINES, library_json, pieces_model, processor, write_json

from pyml_core.cancel import CancelToken
from pyml_core.errors import Cancelled
from pyml_nlp.background import run_cancellable
from pyml_nlp.tokenizer import TextError, Tokenizer, load_tokenizer
from pyml_nlp.tokenizer.base import LONG_TEXT

LONG = "\n".join(LINES * (LONG_TEXT // 300)) + "<|im_start|>"


@pytest.mark.parametrize("kind", ["gpt2", "llama3", "llama2", "gemma", "metaspace"])
def test_long_texts_have_the_same_ids(kind: str, tmp_path: Path) -> None:
    write_json(tmp_path, library_json(kind))
    tokenizer = load_tokenizer(tmp_path)
    original = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in (LONG, LONG[:LONG_TEXT], LONG[: LONG_TEXT + 1], "a" * 40_000, "é\n" * 20_000):
        assert tokenizer.encode(text) == original.encode(text).ids
    assert len(LONG) > LONG_TEXT
    boundaries = [len(LONG) - 5] if kind in ("gpt2", "llama3") else []
    ids = tokenizer.encode(LONG, boundaries=boundaries)
    assert (tokenizer.special_ids.isdisjoint(ids[1:])) is bool(boundaries)
    original.encode_special_tokens = True
    assert tokenizer.encode(LONG, parse_special=False) == original.encode(LONG).ids


def test_long_texts_of_a_tokenizer_model(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(pieces_model("unigram"))
    ids = load_tokenizer(tmp_path).encode(LONG, parse_special=False)
    assert ids == processor(pieces_model("unigram")).encode_as_ids(LONG)


def test_errors_come_out(tmp_path: Path) -> None:
    document = library_json("metaspace")
    document["model"]["unk_id"] = None
    tokenizer = load_tokenizer(write_json(tmp_path, document))
    with pytest.raises(TextError, match=r"^text: .*unk_id"):
        tokenizer.encode("\U0001f9ff" * (LONG_TEXT + 1))


@pytest.fixture(params=["tokenizer.json", "tokenizer.model"])
def slow(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Tokenizer, str]:
    """A tokenizer whose file makes it as slow as a file may, and a text that takes a second."""
    if request.param == "tokenizer.json":
        document = library_json("gpt2")
        split = {"type": "Split", "pattern": {"Regex": "."}, "behavior": "Isolated", "invert": False}
        byte_level = document["pre_tokenizer"] | {"use_regex": False}
        document["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split] * 14 + [byte_level]}
        write_json(tmp_path, document)
        return load_tokenizer(tmp_path), "a" * 150_000
    (tmp_path / "tokenizer.model").write_bytes(long_pieces())
    return load_tokenizer(tmp_path), "a" * 400_000


def long_pieces() -> bytes:
    """A unigram model with a piece as long as a piece may be."""

    def field(number: int, content: bytes) -> bytes:
        length = len(content)
        return bytes([number << 3 | 2, length & 127 | 128, length >> 7]) + content

    pieces = [("<unk>", 2), ("a", 1), ("▁", 1), ("a" * 510, 1)]
    return b"".join(field(1, field(1, text.encode()) + b"\x18" + bytes([kind])) for text, kind in pieces)


def left(call: Callable[[], Any], error: type[BaseException]) -> None:
    """The call ends with the error within a second, while its work still goes on in another thread."""
    before, start = set(threading.enumerate()), time.monotonic()
    with pytest.raises(error):
        call()
    assert time.monotonic() - start < 1
    assert set(threading.enumerate()) - before


def test_a_deadline_ends_it(slow: tuple[Tokenizer, str]) -> None:
    tokenizer, text = slow
    with CancelToken(0.2):
        left(lambda: tokenizer.encode(text), Cancelled)
    with CancelToken(0.2) as token:  # the next text waits for the call in the background, or is cancelled too
        threading.Timer(0.1, token.cancel).start()
        start = time.monotonic()
        with pytest.raises(Cancelled):
            [tokenizer.encode(text) for _ in count()]
        assert time.monotonic() - start < 1
    assert tokenizer.decode(tokenizer.encode("aaa")) == "aaa"


def test_ctrl_c_ends_it(slow: tuple[Tokenizer, str]) -> None:
    tokenizer, text = slow
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        left(lambda: tokenizer.encode(text), KeyboardInterrupt)
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_go_on(slow: tuple[Tokenizer, str]) -> None:
    """The library's call does not keep the GIL."""
    tokenizer, text = slow
    gaps: list[float] = []
    done = threading.Event()

    def watch() -> None:
        last = time.monotonic()
        while not done.wait(0.001):
            gaps.append(time.monotonic() - last)
            last += gaps[-1]

    thread = threading.Thread(target=watch)
    thread.start()
    tokenizer.encode(text[:60_000])
    done.set()
    thread.join()
    assert len(gaps) > 20
    assert max(gaps) < 0.5


def test_a_call_that_was_left_gets_no_lock() -> None:
    from pyml_core.locks import Lock

    lock, calls = Lock(), []

    def call() -> None:
        with lock:
            calls.append(1)

    with lock, CancelToken(0.1):
        left(lambda: run_cancellable(call), Cancelled)
        time.sleep(0.3)
    time.sleep(0.1)
    assert not calls
    run_cancellable(call)
    assert calls == [1]
