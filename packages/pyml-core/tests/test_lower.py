"""Lowering: fusions, buffers without floats, quantise passes, limits. Programs here are declared, but not compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pyml_core import KVLayout, Program, ShapeError, pack, quantize
from pyml_core.lower import NO_LIMIT, TILE_ROWS, find_codes_only, find_fusions, lower
from pyml_core.records import Buffer
from pyml_core.tensor import PackedMatrix


def matrix(rows: int, columns: int, dtype: str = "q8_0") -> PackedMatrix:
    return pack(quantize(np.ones((rows, columns), np.float32), dtype), dtype, (rows, columns))


def ones(*shape: int) -> Any:
    return np.ones(shape, np.float32)


def start(width: int = 64, kv: KVLayout | None = None) -> tuple[Program, Buffer]:
    program = Program(8, kv, threads=1)
    return program, program.embed("x", matrix(9, width, "f32"), program.buffer("x", width))


def kinds(program: Program) -> list[str]:
    return [record.kind for record in lower(program, 8).operations]


# ---- quantise passes


def test_an_operation_that_writes_whole_rows_quantises_them_itself() -> None:
    program, x = start()
    program.rms_norm("norm", x, ones(64), 1e-6, x)
    program.linear("out", x, [matrix(7, 64)], program.buffer("out", 7))
    assert kinds(program) == ["embed", "rms_norm", "linear"]


Declare = Callable[[Program, Buffer], Buffer]
IN_PIECES: dict[str, Declare] = {
    "linear": lambda p, x: p.linear("a", x, [matrix(64, 64, "f32")], p.buffer("y", 64)),
    "route": lambda p, x: p.route("a", x, 32, p.buffer("y", 64)),
    "rope_angles": lambda p, x: p.rope_angles("a", ones(32)),
}


@pytest.mark.parametrize("kind", IN_PIECES)
def test_rows_written_in_pieces_are_quantised_by_a_pass_of_their_own(kind: str) -> None:
    program, x = start()
    rows = IN_PIECES[kind](program, x)
    assert "quantize" not in kinds(program)
    program.linear("out", rows, [matrix(7, 64)], program.buffer("out", 7))
    lowered = lower(program, 8)
    assert [record.kind for record in lowered.operations] == ["embed", kind, "quantize", "linear"]
    quantise = lowered.operations[2]
    assert (quantise.inputs, quantise.output) == ((), rows.index)
    assert [lowered.spans[op] for op in program.operations] == [(0, 0), (1, 2), (3, 3)]


@pytest.mark.parametrize(("head_dim", "passes"), [(32, 0), (64, 0), (16, 1), (48, 1)])
def test_attention_quantises_heads_of_whole_blocks(head_dim: int, passes: int) -> None:
    width = 96 * head_dim // 16
    program, qkv = start(width, KVLayout(1, 2, head_dim))
    n_heads = width // head_dim - 4
    program.prepare_qkv("prepare", qkv, 0, n_heads)
    heads = program.attention("attend", qkv, 0, n_heads, program.buffer("heads", n_heads * head_dim), 1.0)
    program.linear("out", heads, [matrix(5, heads.width)], program.buffer("out", 5))
    assert kinds(program).count("quantize") == passes
    assert bool(find_codes_only(program, head_dim % 32 == 0)) == (passes == 0)


# ---- buffers of which only the int8 copy is read


def test_floats_that_nothing_reads_are_not_written() -> None:
    program, x = start()
    y = program.rms_norm("norm", x, ones(64), 1e-6, program.buffer("y", 64))
    program.linear("out", y, [matrix(7, 64)], program.buffer("out", 7))
    assert find_codes_only(program, True) == [y]
    assert [record.codes_only for record in lower(program, 8).buffers] == [False, True, False]


READERS: dict[str, Declare] = {
    "a matrix of floats": lambda p, y: p.linear("b", y, [matrix(7, 64, "f32")], p.buffer("b", 7)),
    "a matrix of both kinds": lambda p, y: p.linear("b", y, [matrix(7, 64), matrix(7, 64, "f16")], p.buffer("b", 14)),
    "a norm": lambda p, y: p.rms_norm("b", y, ones(64), 1e-6, p.buffer("b", 64)),
    "a sum": lambda p, y: p.rms_norm("b", p.buffers[0], ones(64), 1e-6, y, add_to=y),
    "an operation that adds to them": lambda p, y: p.linear("b", p.buffers[0], [matrix(64, 64)], y, accumulate=True),
    "the caller": lambda p, y: p.rms_norm("b", p.buffers[0], ones(64), 1e-6, y),
}


@pytest.mark.parametrize("reader", READERS)
def test_floats_that_are_read_are_written(reader: str) -> None:
    program, x = start()
    y = program.rms_norm("norm", x, ones(64), 1e-6, program.buffer("y", 64))
    program.linear("out", y, [matrix(7, 64)], program.buffer("out", 7))
    READERS[reader](program, y)
    assert y not in find_codes_only(program, True)


def test_operations_that_always_write_floats() -> None:
    program = Program(4, threads=1)
    x = program.embed("x", matrix(9, 64, "f32"), program.buffer("x", 64))
    program.linear("out", x, [matrix(7, 64)], program.buffer("out", 7))
    assert find_codes_only(program, True) == []


# ---- fusions


def gated_layer(**options: Any) -> Program:
    program, x = start()
    sizes, gate_dtype = options.get("sizes", (64, 64)), options.get("dtype", "q8_0")
    gate_up = program.buffer("gate_up", sum(sizes))
    program.linear("up", x, [matrix(size, 64, gate_dtype) for size in sizes], gate_up)
    hidden = program.gated("gate", gate_up, "silu", program.buffer("hidden", sum(sizes) // 2))
    program.linear("down", hidden, [matrix(64, hidden.width, options.get("down", "q8_0"))], x, accumulate=True)
    return program


def test_a_linear_layer_applies_the_activation_that_follows() -> None:
    program = gated_layer()
    up, gate = program.operations[1:3]
    assert find_fusions(program) == [(up, gate)]
    lowered = lower(program, 8)
    assert lowered.fusions == [(lowered.spans[up][0], lowered.spans[gate][0])]


def test_matrices_that_are_not_whole_blocks_are_not_fused() -> None:
    assert find_fusions(gated_layer(sizes=(48, 80))) == []


def test_an_activation_that_no_quantised_matrix_reads_is_not_fused() -> None:
    assert find_fusions(gated_layer(down="f16")) == []


def test_rows_that_something_else_reads_are_not_fused() -> None:
    program = gated_layer()
    program.rms_norm("more", program.operations[1].output, ones(128), 1e-6, program.buffer("more", 128))
    assert find_fusions(program) == []


def test_an_activation_of_other_rows_is_not_fused() -> None:
    program, x = start()
    other = program.linear("first", x, [matrix(64, 64)], program.buffer("other", 64))
    program.linear("second", x, [matrix(64, 64)], program.buffer("rows", 64))
    hidden = program.activate("gelu", other, "gelu_erf", program.buffer("hidden", 64))
    program.linear("down", hidden, [matrix(64, 64)], x)
    assert find_fusions(program) == []


# ---- limits of a run


def test_limits_are_those_of_the_smallest_tables() -> None:
    program, x = start()
    free = lower(program, 8)
    assert (free.vocabulary, free.positions, free.rope_sets) == (9, NO_LIMIT, NO_LIMIT)
    program.embed("again", matrix(5, 64, "f32"), x)
    program.add_positions("positions", ones(100, 64), x)
    program.rope_angles("angles", ones(3, 8))
    program.rope_angles("others", ones(8))
    bounded = lower(program, 8)
    assert (bounded.vocabulary, bounded.positions, bounded.rope_sets) == (5, 100, 1)
    assert not bounded.needs_pages


@pytest.mark.parametrize("group", [1, 4, 24, 32])
def test_tiles_have_fewer_tokens_where_more_heads_share_keys(group: int) -> None:
    layout = KVLayout(2, 2, 16)
    program, qkv = start((2 * group + 4) * 16, layout)
    out = program.buffer("out", 2 * group * 16)
    program.prepare_qkv("prepare", qkv, 1, 2 * group)
    program.attention("attend", qkv, 1, 2 * group, out, 0.25, window=7, soft_cap=2.5)
    lowered = lower(program, 8)
    assert lowered.needs_pages
    assert lowered.tile_tokens == max(1, TILE_ROWS // group)
    attend = lowered.operations[-1]
    assert (attend.layer, attend.n_heads, attend.window, attend.scale, attend.cap) == (1, 2 * group, 7, 0.25, 2.5)


def test_quantised_rows_are_whole_blocks() -> None:
    program, x = start(48)
    x.quantized = True
    with pytest.raises(ShapeError, match="x: expected a width that is a multiple of 32 for a quantised matrix, got 48"):
        lower(program, 8)


# ---- experts


def test_rows_of_experts_are_sorted_by_their_routes() -> None:
    program, x = start()
    logits = program.linear("router", x, [matrix(4, 64, "f32")], program.buffer("logits", 4))
    routes = program.route("route", logits, 2, program.buffer("routes", 4))
    rows = program.dispatch("dispatch", x, routes, program.buffer("rows", 64, copies=2))
    experts = [[matrix(64, 64), matrix(64, 64)] for _ in range(4)]
    both = program.expert_linear("up", rows, routes, experts, program.buffer("both", 128, copies=2))
    hidden = program.gated("gate", both, "silu", program.buffer("hidden", 64, copies=2))
    down = program.expert_linear("down", hidden, routes, [[matrix(64, 64)]] * 4, program.buffer("down", 64, copies=2))
    program.combine("combine", down, routes, x, accumulate=True)
    lowered = lower(program, 8)
    assert [buf.index for buf in program.buffers if lowered.buffers[buf.index].order == routes.index] == [
        rows.index, both.index, hidden.index, down.index,
    ]  # fmt: skip
    assert [record.order for record in lowered.buffers[:3]] == [-1, -1, -1]
    assert lowered.buffers[routes.index].routes == (4, 2)
    up = next(record for record in lowered.operations if record.kind == "expert_linear")
    assert (up.n_matrices, len(up.matrices)) == (2, 8)


# ---- screens


def test_a_screen_comes_after_the_head_that_it_replaces() -> None:
    program, x = start()
    last = program.select("select", x, program.buffer("last", 64, "outputs"))
    head = PackedMatrix(matrix(32, 64).data, "q8_0", (32, 64), split=True)
    program.linear("head", last, [head], program.buffer("logits", 32, "outputs"))
    program.screen(z_score=5.0)
    lowered = lower(program, 8)
    last_five = lowered.operations[-5:]
    assert [record.kind for record in last_five] == ["linear", "screen", "rescore", "rescore", "rescore"]
    assert [record.screen for record in last_five] == [None, *program.screening, *program.settling]
    assert [record.scale for record in last_five[1:]] == [5.0] * 4
    assert [record.layer for record in last_five[2:]] == [0, 1, 2]  # the rounds
    assert lowered.result == program.operations[-1].output.index
