"""Low-rank terms that differ from slice to slice: the formula at every level, bits, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from core_cases import F32Array, assert_near, normal, same_bits, timed_run

from pyml_core import Program, Slice, Tensor, pack, reference
from pyml_core.errors import ShapeError
from pyml_core.ops.low_rank import LowRank
from pyml_core.tensor import PackedMatrix

WIDTH, OUT = 77, 150
ADAPTERS = [0, 1, 1, 2, 0, 3, 2]
"""Of the slices: neighbours with one adapter, without one, and with one that changes nothing here (3)."""


def matrix(rng: np.random.Generator, rows: int, columns: int, dtype: str = "f32") -> PackedMatrix:
    return pack(Tensor.from_array(normal(rng, rows, columns, scale=columns**-0.5)).convert(dtype))


class Layer:
    """A linear layer with the terms of two adapters, of which the first has two parts."""

    def __init__(self, threads: int = 2, max_tokens: int = 700) -> None:
        rng = np.random.default_rng(4)
        self.program = p = Program(max_tokens, threads=threads)
        x = p.embed("x", matrix(rng, 97, WIDTH), p.buffer("x", WIDTH))
        out = p.linear("base", x, [matrix(rng, OUT, WIDTH)], p.buffer("out", OUT))
        parts = [
            LowRank(1, 0, matrix(rng, 5, WIDTH), matrix(rng, 33, 5)),
            LowRank(2, 101, matrix(rng, 40, WIDTH, "bf16"), matrix(rng, 49, 40, "f16")),
            LowRank(1, 37, matrix(rng, 16, WIDTH, "f16"), matrix(rng, 113, 16, "bf16")),
            LowRank(3, 0, matrix(rng, 1, WIDTH), pack(np.zeros((OUT, 1), np.float32))),
        ]
        p.low_rank("terms", x, parts, p.buffer("low", 41), out)

    def run(self, *parts: tuple[int, int, int]) -> F32Array:
        """The outputs of (adapter, first id, number of ids) each."""
        return self.program.run(batch(parts))


def batch(parts: tuple[tuple[int, int, int], ...]) -> list[Slice]:
    return [Slice((), 0, [id_ % 97 for id_ in range(first, first + n)], adapter=adapter) for adapter, first, n in parts]


@pytest.mark.parametrize("n_tokens", [1, 3, 17, 90])
def test_it_is_the_formula(n_tokens: int, level: str) -> None:
    layer = Layer()
    slices = batch(tuple((adapter, 7 * i, n_tokens) for i, adapter in enumerate(ADAPTERS)))
    got, expected = layer.program.run(slices), reference.run(layer.program, slices)
    assert_near(got, expected)
    base = layer.run(*((0, 7 * i, n_tokens) for i in range(len(ADAPTERS))))
    changed = np.abs(got - base).reshape(len(ADAPTERS), n_tokens, OUT).max(axis=1) > 0
    assert [row.any() for row in changed] == [adapter in (1, 2) for adapter in ADAPTERS]
    assert not changed[1, 33:37].any()
    assert not changed[3, :101].any()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_slice_has_the_bits_that_it_has_alone(threads: int, level: str) -> None:
    layer, alone = Layer(threads), Layer(1)
    parts = [(adapter, 5 * i, 1 + 40 * (i % 3)) for i, adapter in enumerate([*ADAPTERS, 1])]
    got, row = layer.run(*parts), 0
    for adapter, first, n in parts:
        mine = got[row : row + n]
        assert same_bits(mine, alone.run((adapter, first, n)))
        assert same_bits(mine[:1], alone.run((adapter, first, 1)))
        row += n


def test_long_slices_take_several_blocks() -> None:
    layer = Layer()
    got = layer.run((1, 0, 300), (1, 3, 300))
    assert same_bits(got[:300], layer.run((1, 0, 300)))
    assert same_bits(got[-1:], layer.run((1, 302, 1)))


def test_costs_are_those_of_the_rows_that_have_an_adapter() -> None:
    layer = Layer()
    _, none = timed_run(layer.program, batch(((0, 0, 9),)))
    _, some = timed_run(layer.program, batch(((0, 0, 9), (1, 0, 4))))
    assert (none[-1].bytes, none[-1].flops) == (0, 0)
    assert some[-1].flops == 2 * 4 * (5 * (WIDTH + 33) + 16 * (WIDTH + 113))


@pytest.mark.parametrize("adapter", [-1, 4])
def test_unknown_adapters_are_refused(adapter: int) -> None:
    with pytest.raises(ShapeError, match=f"expected an adapter from 0 to 3, got {adapter}"):
        Layer().run((adapter, 0, 1))


def test_wrong_parts_are_refused() -> None:
    rng = np.random.default_rng(1)
    p = Program(4, threads=1)
    x, out, low = p.buffer("x", 64), p.buffer("out", 32), p.buffer("low", 4)

    def refuse(message: str, *parts: LowRank) -> None:
        with pytest.raises(ShapeError, match=message):
            p.low_rank("terms", x, parts, low, out)

    a, b = matrix(rng, 4, 64), matrix(rng, 32, 4)
    refuse("expected at least one part, got none")
    refuse("expected numbers of adapters from 1, got 0", LowRank(0, 0, a, b))
    refuse("expected matrices in f32, f16 or bf16, got q8_0 and f32", LowRank(1, 0, matrix(rng, 4, 64, "q8_0"), b))
    refuse(r"expected A \(R, K\) and B \(N, R\), got \(4, 64\) and \(32, 5\)", LowRank(1, 0, a, matrix(rng, 32, 5)))
    refuse("expected x to be 60 wide, it is 64", LowRank(1, 0, matrix(rng, 4, 60), b))
    refuse(r"columns 1..32 are outside 0..31", LowRank(1, 1, a, b))
    refuse("parts of adapter 1 in columns of their own, got some twice", LowRank(1, 0, a, b), LowRank(1, 0, a, b))
    half = matrix(rng, 16, 4)
    refuse("expected low to be 8 wide, it is 4", LowRank(1, 0, a, half), LowRank(1, 16, a, half))
