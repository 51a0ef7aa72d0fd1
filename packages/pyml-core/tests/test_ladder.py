"""Every step of the ladders agrees with the formula and with the kernel."""

from __future__ import annotations

import numpy as np
import pytest
from core_cases import (
    F32Array,
    assert_near,
    compiled,
    linear,
    new_pages,
    normal,
    random_weight,
    same_bits,
)
from ladder_library import ATTENTION_STEPS, LINEAR_STEPS, Ladder

from pyml_core import KVLayout, Program, Slice, pack, reference
from pyml_core.cpu import use_level
from pyml_core.kv_layout import PageTable
from pyml_core.reference import read_kv, read_value_scales, round_queries

INT8_BOUND = 1e-6
"""A weight halfway between two codes may be rounded to either."""


@pytest.fixture(scope="module")
def ladder(tmp_path_factory: pytest.TempPathFactory) -> Ladder:
    """Both ladders, compiled."""
    return Ladder(tmp_path_factory.mktemp("ladder"))


def kernel_attention(qkv: F32Array, layout: KVLayout) -> tuple[F32Array, PageTable]:
    """Run the kernel on all tokens; return its result for the last token, and the pages."""
    pages, ids = new_pages(layout, len(qkv)), np.arange(len(qkv), dtype=np.int32)
    program = Program(len(qkv), layout, 1)
    x = program.embed("qkv", pack(qkv), program.buffer("qkv", qkv.shape[1]))
    program.prepare_qkv("prepare", x, 0, 1)
    program.attention("attention", x, 0, 1, program.buffer("out", layout.head_dim), layout.head_dim**-0.5)
    return program.run([Slice(pages, 0, ids)])[-1:], pages


@pytest.mark.parametrize("step", range(ATTENTION_STEPS))
@pytest.mark.parametrize("dim", [32, 96, 256])
def test_attention(step: int, dim: int, ladder: Ladder, rng: np.random.Generator) -> None:
    layout = KVLayout(1, 1, dim, "int8" if step == 3 else "f32")
    for length in (1, 17, 64, 128, 129, 300):
        qkv = normal(rng, length, 3 * dim)
        kernel, pages = kernel_attention(qkv, layout)
        q, scale = np.ascontiguousarray(qkv[-1:, :dim]), dim**-0.5
        keys, values = (np.ascontiguousarray(array[0]) for array in read_kv(layout, list(pages), 0, length))
        got = ladder.attention(step, q[0], keys, values, list(pages), scale)[None]
        if layout.int8:
            scales = read_value_scales(layout, list(pages), 0, length)
            rounded = round_queries(q[:, None], scale)
            formula = reference.int8_attention(rounded, keys[None], values[None], scales, length - 1, scale)[:, 0]
        else:
            formula = reference.attention(q[:, None], keys[None], values[None], length - 1, scale)[:, 0]
        assert_near(got, formula, INT8_BOUND if layout.int8 else 1e-11)
        assert_near(got, kernel, INT8_BOUND if layout.int8 else 1e-11)


@pytest.mark.parametrize("step", range(LINEAR_STEPS))
@pytest.mark.parametrize("columns", [32, 288, 544])
def test_linear(step: int, columns: int, ladder: Ladder, rng: np.random.Generator) -> None:
    """From step 1 on, bit-identical to the scalar level's kernel, which rounds multiply-adds twice like plain C."""
    for rows, tokens in ((16, 1), (40, 6), (33, 4)):
        x, weight = normal(rng, tokens, columns), random_weight("q8_0", rows, columns, rng)
        matrix = pack(weight)
        stored = np.frombuffer(weight.data, np.uint8)
        got = ladder.linear(step, stored, np.asarray(matrix.data), rows, x)
        if step == 0:
            assert_near(got, (x.astype(np.float64) @ weight.to_f32().astype(np.float64).T).astype(np.float32))
            continue
        assert_near(got, reference.linear(x, matrix))
        with use_level("scalar"):
            assert same_bits(got, compiled(x, linear(matrix)))
