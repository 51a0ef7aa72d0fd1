"""The compiled loops over a vocabulary's strings, against their definitions."""

from __future__ import annotations

from typing import Any

import pytest

from pyml_core.errors import ShapeError
from pyml_core.strings import decode_strings, split_pairs, walk_strings

WORDS = ["", "a", "Ġthe", "▁x", "𝄞", "0" * 300]


def stored(words: list[bytes]) -> bytes:
    return b"".join(len(word).to_bytes(8, "little") + word for word in words)


def test_strings_are_walked_and_decoded() -> None:
    data = b"head" + stored([word.encode() for word in WORDS]) + b"tail"
    assert walk_strings(data, 4, len(WORDS)) == (len(WORDS), len(data) - 4, 300)
    assert decode_strings(memoryview(data)[4:], len(WORDS)) == WORDS


@pytest.mark.parametrize("cut", range(30))
def test_the_walk_ends_where_a_length_is_not_in_the_data(cut: int) -> None:
    data = stored([b"abc", b"", b"defg"])[:cut]
    walked, position, _ = walk_strings(data, 0, 3)
    ends = [0, 11, 19, 31]
    assert position == ends[walked]
    assert walked == 3 or position + 8 > cut
    if position > cut or walked < 3:
        with pytest.raises(ShapeError, match="expected 3 in"):
            decode_strings(data, 3)


@pytest.mark.parametrize("length", [100, 1 << 62, (1 << 63) - 9, 1 << 63, (1 << 64) - 8, (1 << 64) - 1])
def test_a_length_beyond_all_bounds(length: int) -> None:
    data = length.to_bytes(8, "little") + bytes(40)
    assert walk_strings(data, 0, 5) == (1, 8 + length, length)
    with pytest.raises(ShapeError, match="expected 1 in"):
        decode_strings(data, 1)


def test_invalid_utf8_is_named() -> None:
    with pytest.raises(UnicodeDecodeError) as error:
        decode_strings(stored([b"fine", b"\xff\xfe", b"\xc3"]), 3)
    assert error.value.object == b"\xff\xfe"


def test_no_strings() -> None:
    assert walk_strings(b"", 0, 0) == (0, 0, 0)
    assert decode_strings(b"", 0) == []


@pytest.mark.parametrize(
    "wrong",
    ["", "a", " ", "a ", " b", "a b c", "a  b", ["a"], ["a", "b", "c"], ["a", 1], ["", "b"], ("a", "b"), 7, None],
)
def test_pairs_are_split_up_to_an_invalid_line(wrong: Any) -> None:
    lines = ["a b", "Ġ t", ["x y", "z"], "𝄞 \t"]
    pairs = [("a", "b"), ("Ġ", "t"), ("x y", "z"), ("𝄞", "\t")]
    assert split_pairs(lines) == pairs
    assert split_pairs([*lines, wrong, "c d"]) == pairs
