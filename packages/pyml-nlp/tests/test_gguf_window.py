"""GGUF headers are read in growing pieces: every kind of field is right wherever a piece ends.

One header has all kinds of fields; the end of a piece is moved through it byte by byte. ``gguf``, the format's own
package, is the oracle.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import writers

from pyml_core.block_types import BLOCK_TYPES
from pyml_nlp.errors import ModelFileError
from pyml_nlp.formats import gguf_header
from pyml_nlp.formats.gguf import GGUFFile

REAL_WINDOW = gguf_header.WINDOW

METADATA: dict[str, tuple[str, Any]] = {
    "n.u8": ("u8", 200), "n.i8": ("i8", -100), "n.u16": ("u16", 60000), "n.i16": ("i16", -30000),
    "n.u32": ("u32", 4_000_000_000), "n.i32": ("i32", -2_000_000_000), "n.f32": ("f32", 0.375),
    "n.u64": ("u64", 2**64 - 2), "n.i64": ("i64", -(2**63) + 1), "n.f64": ("f64", 1e300),
    "n.yes": ("bool", 1), "n.no": ("bool", 0),
    "s.text": ("str", "häßlich ▁ 🙂"), "s.empty": ("str", ""), "s.long": ("str", "0123456789" * 9),
    "a.u8": ("[u8", [1, 200]), "a.i8": ("[i8", [-1, 100]), "a.u16": ("[u16", [60000, 1]), "a.i16": ("[i16", [-30000]),
    "a.u32": ("[u32", [1, 4_000_000_000]), "a.i32": ("[i32", [-2, 3, 4]), "a.f32": ("[f32", [0.5, -1000.0]),
    "a.u64": ("[u64", [2**64 - 3]), "a.i64": ("[i64", [-(2**63)]), "a.f64": ("[f64", [1e-300, 2.5]),
    "a.bool": ("[bool", [1, 0, 1]), "a.str": ("[str", ["", "▁the", "x" * 40, ""]), "a.none": ("[str", []),
    "a.nothing": ("[u16", []),
    "k" * 70: ("u8", 1), "a key of ▁ several bytes": ("u8", 2),
}  # fmt: skip
TENSORS = {
    "scalar": ("f32", (), writers.floats()),
    "deep": ("f32", (2, 1, 2, 3), writers.floats(12)),
    **{
        f"blk.0.{name}.weight": (name, (2, block.block_size), bytes(block.nbytes((2, block.block_size))))
        for name, block in BLOCK_TYPES.items()
        if block.ggml_id < 64
    },
    "n" * 63: ("f16", (3, 2), bytes(12)),
}


def build(padding: int | None = None) -> bytes:
    """The file, with a first value of ``padding`` bytes, which moves all the others."""
    first = {} if padding is None else {"padding": ("str", "p" * padding)}
    return writers.join(writers.gguf({**first, **METADATA}, TENSORS))


HEADER_START = 24  # bytes before the fields: the magic, the version, two counts
HEADER = len(build()) - sum(-(-len(raw) // 32) * 32 for _, _, raw in TENSORS.values())


def reading(path: Path) -> tuple[dict[str, Any], list[tuple[Any, ...]]]:
    """The metadata with its types, and the tensors, as pyml reads them."""
    with GGUFFile(path) as file:
        metadata = {
            key: (str(value.dtype), value.tolist()) if isinstance(value, np.ndarray) else value
            for key, value in file.metadata.items()
        }
        return metadata, [(info.name, info.dtype, info.shape, info.offset) for info in file.tensors.values()]


def check_against_oracle(path: Path) -> None:
    """pyml and the ``gguf`` package read equal values."""
    metadata, tensors = reading(path)
    oracle = gguf.GGUFReader(path)
    fields = {key: field.contents() for key, field in oracle.fields.items() if not key.startswith("GGUF.")}
    assert [*metadata] == [*fields]
    for key, value in metadata.items():
        assert (value[1] if isinstance(value, tuple) else value) == fields[key], key
    assert tensors == [
        (tensor.name, _NAMES[tensor.tensor_type], tuple(map(int, tensor.shape[::-1])), tensor.data_offset)
        if tensor.name != "scalar"
        else (tensor.name, "f32", (), tensor.data_offset)
        for tensor in oracle.tensors
    ]


_NAMES = {block.ggml_id: name for name, block in BLOCK_TYPES.items() if block.ggml_id < 64}


def test_first_piece_ends_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first piece ends at every byte of the header once, the following ones at multiples."""
    path = tmp_path / "m.gguf"
    path.write_bytes(build())
    check_against_oracle(path)
    expected = reading(path)
    for window in range(1, HEADER + 1):
        monkeypatch.setattr(gguf_header, "WINDOW", window)
        assert reading(path) == expected, window


@pytest.mark.parametrize("window", [16, 24])
def test_every_offset_from_small_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int) -> None:
    """A string longer than the rest of a piece ends the piece where it ends; the fields after it move byte by byte."""
    monkeypatch.setattr(gguf_header, "WINDOW", window)
    path = tmp_path / "m.gguf"
    for padding in range(0, 600, 3 if window == 16 else 7):
        path.write_bytes(build(padding))
        check_against_oracle(path)


@pytest.mark.parametrize("end", [REAL_WINDOW, 2 * REAL_WINDOW])
def test_real_piece_ends_anywhere(tmp_path: Path, end: int) -> None:
    """With pieces of normal size: the first or second one ends at every byte of the fields."""
    path = tmp_path / "m.gguf"
    path.write_bytes(build())
    metadata, tensors = reading(path)
    expected = metadata, [tensor[:3] for tensor in tensors]
    # Two strings, so that neither of them is longer than a piece and ends it.
    first = {"first": ("str", "f" * (REAL_WINDOW // 2))} if end > REAL_WINDOW else {}
    before = HEADER_START + sum(len(writers.join(writers.entry(key, *value))) for key, value in first.items())
    before += len(writers.join(writers.entry("padding", "str", "")))
    for at in range(HEADER - HEADER_START):  # of the fields' bytes, the one at which a piece ends
        entries = {**first, "padding": ("str", "p" * (end - at - before))}
        path.write_bytes(writers.join(writers.gguf({**entries, **METADATA}, TENSORS)))
        found, found_tensors = reading(path)
        for key, (_, value) in entries.items():
            assert found.pop(key) == value
        assert (found, [tensor[:3] for tensor in found_tensors]) == expected, at
        if at % 50 == 0:
            check_against_oracle(path)


def test_field_behind_a_string_of_many_pieces(tmp_path: Path) -> None:
    """A string of more than twice the piece's size ends the next piece: the next field always begins at its end."""
    path = tmp_path / "m.gguf"
    for padding in (100_000, 131_001, 190_000, 1_000_000):
        path.write_bytes(build(padding))
        check_against_oracle(path)


def test_errors_do_not_depend_on_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nested arrays, which are refused, and headers that end too early: pieces of all sizes give one message."""
    path = tmp_path / "m.gguf"
    nested = writers.u32(9) + writers.u64(1) + writers.u32(4) + writers.u64(1) + writers.u32(7)
    whole = build()
    broken = [writers.join(writers.gguf_fields([writers.raw_entry("a.key", 9, nested)]))]
    broken += [whole[:end] for end in range(0, HEADER, 37)]
    for content in broken:
        path.write_bytes(content)
        messages = set()
        for window in (1, 16, 33, REAL_WINDOW):
            monkeypatch.setattr(gguf_header, "WINDOW", window)
            with pytest.raises(ModelFileError) as caught:
                GGUFFile(path)
            messages.add(str(caught.value))
        assert len(messages) == 1, messages
