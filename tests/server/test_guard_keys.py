"""Files of API keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyml_nlp.errors import ArgumentError
from pyml_nlp.server.guard_keys import Keys, read_keys


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of keys, without keys."""
    return tmp_path / "keys"


def test_names_and_keys(path: Path) -> None:
    path.write_text("# comment\n\nalice  sk-1\n\tsk-2#x\nalice sk-3\r\n  # bob sk-4\n")
    assert read_keys(path) == [("alice", "sk-1"), ("key-4", "sk-2#x"), ("alice", "sk-3")]
    keys = Keys({"me": "sk-0"}, path)
    assert len(keys) == 4
    assert [keys.client([key]) for key in (b"sk-0", b"sk-1", b"sk-3", b"sk-4", b"", b"alice")] == [
        "me",
        "alice",
        "alice",
        None,
        None,
        None,
    ]
    assert keys.client([]) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a key, found none"),
        ("# alice sk-1\n", "expected a key, found none"),
        ("alice sk-1 x", ":1: expected NAME KEY, found 3 words"),
        ("sk-1\nalice sk-\xe9", ":2: expected a key of ASCII characters"),
        ("sk-\x01", ":1: expected a key of ASCII characters"),
        ("alice sk-1\nbob sk-1", "'alice' and 'bob' have the same key"),
    ],
)
def test_invalid_files(path: Path, text: str, message: str) -> None:
    path.write_text(text)
    with pytest.raises(ArgumentError, match=message) as info:
        Keys(path=path)
    assert "sk-" not in str(info.value)  # no key in a message


def test_other_files(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Keys(path=path)
    path.write_bytes(b"\xff\xfea\0")
    with pytest.raises(ArgumentError, match="expected UTF-8"):
        Keys(path=path)


def test_reload(path: Path) -> None:
    path.write_text("alice sk-1\n")
    keys = Keys(path=path)
    path.write_text("bob sk-2\n")
    assert keys.client([b"sk-1"]) == "alice"
    keys.reload()
    assert [keys.client([key]) for key in (b"sk-1", b"sk-2")] == [None, "bob"]
    path.write_text("a b c\n")
    with pytest.raises(ArgumentError):
        keys.reload()
    assert keys.client([b"sk-2"]) == "bob"


def test_no_keys() -> None:
    assert not Keys()
    assert Keys().client([b""]) is None
