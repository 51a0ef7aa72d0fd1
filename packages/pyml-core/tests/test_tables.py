"""The lists of ``csrc`` agree with the operations and block types of Python, including their order."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import pyml_core
from pyml_core import _native
from pyml_core.block_types import BLOCK_TYPES, BlockType
from pyml_core.ops import OPERATIONS

CSRC = Path(pyml_core.__file__).parent / "csrc"
from_sources = pytest.mark.skipif(not CSRC.is_dir(), reason="an installed wheel has no sources")

INSERTED = ["quantize"]  # inserted by lower.py, not declared by programs
PACKED = ["q8_0_split"]  # another layout of a block type
KINDS_OF_FIELDS = {
    (2, ""): "U16",
    (4, "float"): "FLOATS",
    (1, ""): "BYTES",
    (4, ""): "WORDS",
    (4, "biased"): "WORDS_XOR_80",
    (4, "bits"): "WORDS_SPREAD",
}


def lines(name: str, macro: str) -> list[list[str]]:
    """Return the arguments of every line of a list; braces enclose one argument."""
    path = CSRC / name
    text = path.read_text() if path.exists() else ""
    calls = re.findall(rf"^{macro}\((.*)\)$", text, re.MULTILINE)
    return [[part.strip() for part in re.findall(r"\{[^}]*\}|[^,{}]+", call) if part.strip()] for call in calls]


# ---- operations


@from_sources
def test_operations_are_listed_in_the_order_of_the_records() -> None:
    listed = lines("operations.def", "OPERATION")
    assert [name for _, name, *_ in listed] == [*OPERATIONS, *INSERTED]
    assert all(kind == name.upper() for kind, name, *_ in listed)


@from_sources
def test_matrix_products_are_marked() -> None:
    for _, name, _, product in lines("operations.def", "OPERATION"):
        assert bool(int(product)) == (name in OPERATIONS and OPERATIONS[name].matrices == "matrices"), name


def test_the_extension_knows_the_operations() -> None:
    assert _native.operation_names() == [*OPERATIONS, *INSERTED]


@pytest.mark.parametrize("name", [*OPERATIONS, *INSERTED])
def test_every_operation_has_a_kernel(name: str, level: str) -> None:
    assert _native.has_kernel(level, name)


# ---- block types


@from_sources
def test_block_types_are_listed_in_the_order_of_the_table() -> None:
    plain, quantized = lines("block_types.def", "PLAIN_TYPE"), lines("block_types.def", "BLOCK_TYPE")
    assert [name for _, name, *_ in (*plain, *quantized)] == [*BLOCK_TYPES, *PACKED]
    assert all(constant == name.upper() for constant, name, *_ in (*plain, *quantized))


@from_sources
def test_plain_types_are_the_same() -> None:
    for _, name, number, nbytes in lines("block_types.def", "PLAIN_TYPE"):
        kind = BLOCK_TYPES[name]
        assert (kind.ggml_id, kind.block_size, kind.type_size) == (int(number), 1, int(nbytes))


@from_sources
def test_block_types_are_the_same() -> None:
    for _, name, *numbers_and_fields in lines("block_types.def", "BLOCK_TYPE"):
        number, block, nbytes, share, bits, zero, minimum = map(int, numbers_and_fields[:7])
        kind = BLOCK_TYPES[name.removesuffix("_split")]
        assert (kind.block_size, kind.type_size, kind.share, kind.zero, kind.minimum) == (
            block, nbytes, share, zero, bool(minimum),
        ), name  # fmt: skip
        assert largest_code(kind) < 2**bits
        if name not in PACKED:
            assert kind.ggml_id == number
            assert [f"{{{KINDS_OF_FIELDS[f.unit, f.recode]}, {f.offset}, {f.n_units}}}" for f in kind.fields] == (
                numbers_and_fields[7:]
            ), name


def largest_code(kind: BlockType) -> int:
    """Return the largest unsigned code in blocks of random bytes."""
    assert kind.decode is not None
    blocks = np.random.default_rng(0).integers(0, 256, (64, kind.type_size), dtype=np.uint8)
    blocks[:, :] = np.concatenate([blocks[:62], np.zeros((1, kind.type_size)), np.full((1, kind.type_size), 255)])
    with np.errstate(invalid="ignore", over="ignore"):
        codes = kind.decode(blocks).codes.astype(int) + kind.zero
    assert codes.min() >= 0
    return int(codes.max())


@pytest.mark.parametrize("name", [name for name, kind in BLOCK_TYPES.items() if kind.quantized])
def test_decoders_agree_with_the_table(name: str) -> None:
    kind = BLOCK_TYPES[name]
    assert kind.decode is not None
    codes, scale, minimum = kind.decode(np.zeros((3, kind.type_size), np.uint8))
    assert codes.shape == (3, kind.block_size)
    assert scale.shape == (3, kind.block_size // kind.share)
    assert (minimum is not None) == kind.minimum


@pytest.mark.parametrize("name", [name for name, kind in BLOCK_TYPES.items() if not kind.quantized])
def test_plain_types_are_read_and_written(name: str) -> None:
    kind = BLOCK_TYPES[name]
    assert kind.decode is None
    assert kind.to_floats is not None
    assert kind.encode is not None
    numbers = np.array([[1.0], [-2.5]], np.float32)
    assert np.array_equal(kind.to_floats(np.ascontiguousarray(kind.encode(numbers)).reshape(-1)), numbers.reshape(-1))
