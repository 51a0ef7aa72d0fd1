"""Program: invalid declarations and runs, timings, and freeing of memory."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from core_cases import Model, new_pages, normal, same_bits, timed_run

from pyml_core import KVLayout, Program, ShapeError, Slice, pack, quantize
from pyml_core.kv_layout import PageTable
from pyml_core.records import Buffer
from pyml_core.timing import OpTiming

LAYOUT = KVLayout(2, 2, 16)


def q8(rows: int, columns: int) -> Any:
    return pack(quantize(np.ones((rows, columns), np.float32), "q8_0"), "q8_0", (rows, columns))


def ones(*shape: int) -> Any:
    return np.ones(shape, np.float32)


# ---- declaring


def test_invalid_programs() -> None:
    for max_tokens in (0, -1):
        with pytest.raises(ShapeError, match=f"max_tokens: expected at least 1, got {max_tokens}"):
            Program(max_tokens)
    for threads in (0, -1, 257):
        with pytest.raises(ShapeError, match=f"threads: expected 1 to 256, got {threads}"):
            Program(4, threads=threads)
    program = Program(4)
    with pytest.raises(ShapeError, match="x: expected a width of at least 1, got 0"):
        program.buffer("x", 0)
    with pytest.raises(ShapeError, match="x: expected rows 'tokens' or 'outputs', got 'rows'"):
        program.buffer("x", 4, "rows")


BAD_DECLARATIONS: dict[str, tuple[Callable[[Program, Buffer, Buffer], Any], str]] = {
    "embed": (lambda p, x, y: p.embed("a", pack(ones(9, 31)), x), "a: expected x to be 31 wide, it is 32"),
    "positions": (lambda p, x, y: p.add_positions("a", ones(9, 31), x), "a: expected x to be 31 wide, it is 32"),
    "positions of one dimension": (lambda p, x, y: p.add_positions("a", ones(32), x), "weight of 2 dimensions"),
    "norm": (lambda p, x, y: p.rms_norm("a", x, ones(31), 1e-6, x), "a: expected x to be 31 wide, it is 32"),
    "norm's output": (lambda p, x, y: p.rms_norm("a", x, ones(32), 1e-6, y), "a: expected y to be 32 wide, it is 96"),
    "norm of two dimensions": (lambda p, x, y: p.rms_norm("a", x, ones(1, 32), 1e-6, x), "weight of 1 dimensions"),
    "norm added elsewhere": (lambda p, x, y: p.rms_norm("a", x, ones(32), 1e-6, x, add_to=y), "add_to must be"),
    "layer norm's bias": (lambda p, x, y: p.layer_norm("a", x, ones(32), ones(3), 1e-6, x), "x to be 3 wide, it is 32"),
    "linear's input": (lambda p, x, y: p.linear("a", x, [q8(96, 64)], y), "a: expected x to be 64 wide, it is 32"),
    "linear's output": (lambda p, x, y: p.linear("a", x, [q8(64, 32), q8(31, 32)], y), "y to be 95 wide, it is 96"),
    "linear's bias": (lambda p, x, y: p.linear("a", x, [q8(96, 32)], y, ones(95)), "y to be 95 wide, it is 96"),
    "activation": (lambda p, x, y: p.activate("a", x, "relu", x), "gelu_tanh, gelu_erf, silu, got 'relu'"),
    "activation's output": (lambda p, x, y: p.activate("a", x, "silu", y), "a: expected y to be 32 wide, it is 96"),
    "gate": (lambda p, x, y: p.gated("a", x, "silu", y), "a: expected x to be 192 wide, it is 32"),
    "gate's activation": (lambda p, x, y: p.gated("a", x, "", y), "got ''"),
    "cap": (lambda p, x, y: p.soft_cap("a", x, 0.0), "a: expected a cap above 0, got 0.0"),
    "cap that is no number": (lambda p, x, y: p.soft_cap("a", x, float("nan")), "expected a cap above 0, got nan"),
    "select": (lambda p, x, y: p.select("a", x, x), "a: select goes from rows 'tokens' to rows 'outputs'"),
    "prepare's width": (lambda p, x, y: p.prepare_qkv("a", x, 0, 2), "a: expected x to be 96 wide, it is 32"),
    "layer": (lambda p, x, y: p.prepare_qkv("a", y, 2, 2), "a: layer 2 is not in the KV layout's 2"),
    "layer below 0": (lambda p, x, y: p.prepare_qkv("a", y, -1, 2), "a: layer -1 is not"),
    "heads": (lambda p, x, y: p.prepare_qkv("a", y, 0, 3), "a: 3 heads do not divide into 2 key/value heads"),
    "RoPE": (lambda p, x, y: p.prepare_qkv("a", y, 0, 2, x), "a: RoPE rotates 32 elements, head_dim is 16"),
    "QK-norm": (lambda p, x, y: p.prepare_qkv("a", y, 0, 2, None, ones(8)), "16 weights, or of all heads' 32, got 8"),
    "QK-norms of both kinds": (
        lambda p, x, y: p.prepare_qkv("a", y, 0, 2, None, ones(16), ones(32)),
        "a QK-norm of 16 weights, or of all heads' 32, got 16",
    ),
    "attention's output": (lambda p, x, y: p.attention("a", y, 0, 2, y, 1.0), "expected y to be 32 wide, it is 96"),
    "window": (lambda p, x, y: p.attention("a", y, 0, 2, x, 1.0, window=-1), "a: expected a window of at least 0"),
    "window in both directions": (
        lambda p, x, y: p.attention("a", y, 0, 2, x, 1.0, window=4, bidirectional=True),
        "a: expected no window in attention to all positions, got 4",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_DECLARATIONS)
def test_invalid_declarations(case: str) -> None:
    program = Program(4, LAYOUT)
    x, y = program.buffer("x", 32), program.buffer("y", 96)
    declare, message = BAD_DECLARATIONS[case]
    with pytest.raises(ShapeError, match=message):
        declare(program, x, y)
    assert not program.operations


def test_attention_needs_a_layout() -> None:
    program = Program(4)
    with pytest.raises(ShapeError, match="a: attention needs a program with a KV layout"):
        program.prepare_qkv("a", program.buffer("x", 96), 0, 2)


def test_rows_must_match() -> None:
    """All operations except select keep the kind of rows; those over tokens need rows of tokens."""
    program = Program(4, LAYOUT)
    x, last = program.buffer("x", 32), program.buffer("last", 32, "outputs")
    qkv, late = program.buffer("qkv", 96), program.buffer("late", 96, "outputs")
    wrong: list[Callable[[], Any]] = [
        lambda: program.embed("a", pack(ones(9, 32)), last),
        lambda: program.add_positions("a", ones(9, 32), last),
        lambda: program.rms_norm("a", x, ones(32), 1e-6, last),
        lambda: program.layer_norm("a", last, ones(32), ones(32), 1e-6, x),
        lambda: program.linear("a", x, [pack(ones(96, 32))], late),
        lambda: program.activate("a", x, "silu", last),
        lambda: program.gated("a", program.buffer("wide", 64), "silu", last),
        lambda: program.prepare_qkv("a", late, 0, 2),
        lambda: program.attention("a", qkv, 0, 2, last, 1.0),
        lambda: program.attention("a", late, 0, 2, x, 1.0),
    ]
    for declare in wrong:
        with pytest.raises(ShapeError, match=r"a: expected .* to have rows of (tokens|outputs), it has rows of"):
            declare()
    assert not program.operations


def test_buffers_belong_to_their_program() -> None:
    program, other = Program(4), Program(4)
    mine, theirs = program.buffer("mine", 32), other.buffer("theirs", 32)
    with pytest.raises(ShapeError, match="a: theirs is not a buffer of this program"):
        program.activate("a", theirs, "silu", mine)
    with pytest.raises(ShapeError, match="a: made up is not a buffer of this program"):
        program.activate("a", mine, "silu", Buffer("made up", 32, index=0))


def test_nothing_is_read_before_it_is_written() -> None:
    program = Program(4)
    x, y = program.buffer("x", 32), program.buffer("y", 32)
    program.embed("embedding", q8(9, 32), x)
    program.linear("adding", x, [q8(32, 32)], y, accumulate=True)
    for _ in range(2):
        with pytest.raises(ShapeError, match="adding: reads y, which nothing was written to"):
            program.run([Slice((), 0, [0])])
    with pytest.raises(ShapeError, match="the program has no operations"):
        Program(4).run([Slice((), 0, [0])])


def test_nothing_is_declared_after_a_run() -> None:
    program = Program(4)
    x = program.embed("embedding", q8(9, 32), program.buffer("x", 32))
    before = program.run([Slice((), 0, [0, 8])])
    with pytest.raises(ShapeError, match="late: the program has run already"):
        program.activate("late", x, "silu", x)
    assert same_bits(program.run([Slice((), 0, [0, 8])]), before)


# ---- running


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(2, max_tokens=64)


BAD_RUNS: dict[str, tuple[Callable[[Model], list[Slice]], str]] = {
    "id": (lambda m: [Slice(m.pages(9), 0, [3, 77])], "token id 77 is outside the vocabulary of 77"),
    "id below 0": (lambda m: [Slice(m.pages(9), 0, [-1])], "token id -1 is outside"),
    "id of the second slice": (lambda m: [Slice(m.pages(9), 0, [1]), Slice(m.pages(9), 0, [99])], "token id 99"),
    "too many tokens": (lambda m: [Slice(m.pages(99), 0, [1] * 65)], "expected 1 to 64 tokens in all, got 65"),
    "too many in all": (lambda m: [Slice(m.pages(99), 0, [1] * 33)] * 2, "expected 1 to 64 tokens in all, got 66"),
    "too many slices": (lambda m: [Slice(m.pages(9), 0, [1])] * 65, "expected at most 64 slices, got 65"),
    "no tokens": (lambda m: [Slice(m.pages(9), 0, [])], "expected 1 to 64 tokens in all, got 0"),
    "no pages": (lambda m: [Slice((), 0, [1])], "1 positions need more than 0 KV pages"),
    "too few pages": (lambda m: [Slice(m.pages(64), 60, [1] * 5)], "65 positions need more than 1 KV pages"),
    "start below 0": (lambda m: [Slice(m.pages(9), -1, [1])], "positions -1..-1 are outside 0..4095"),
    "past the positions": (lambda m: [Slice(m.pages(5000), 4095, [1, 2])], "positions 4095..4096 are outside 0..4095"),
    "a huge start": (lambda m: [Slice(m.pages(9), 2**63 - 1, [1])], "are outside 0..4095"),
    "wanted past the end": (lambda m: [Slice(m.pages(9), 0, [1, 2], [2])], r"ascend within 0\.\.1, got 2"),
    "wanted below 0": (lambda m: [Slice(m.pages(9), 0, [1, 2], [-1])], r"ascend within 0\.\.1, got -1"),
    "wanted twice": (lambda m: [Slice(m.pages(9), 0, [1, 2], [1, 1])], r"ascend within 0\.\.1, got 1"),
    "wanted backwards": (lambda m: [Slice(m.pages(9), 0, [1, 2], [1, 0])], r"ascend within 0\.\.1, got 0"),
    "an id that is no number": (lambda m: [Slice(m.pages(9), 0, ["a"])], "whole numbers"),  # type: ignore[list-item]
    "an id with a fraction": (lambda m: [Slice(m.pages(9), 0, [1.5])], "whole numbers"),  # type: ignore[list-item]
    "an id beyond everything": (lambda m: [Slice(m.pages(9), 0, [2**70])], "whole numbers"),
    "page of another size": (lambda m: [Slice([np.zeros(64, np.uint8)], 0, [1])], "contiguous bytes, got 64"),
    "page of another type": (
        lambda m: [Slice([np.zeros(m.kv.page_bytes, np.int8)], 0, [1])],
        "expected KV pages of",
    ),
    "page with gaps": (lambda m: [Slice([np.zeros(2 * m.kv.page_bytes, np.uint8)[::2]], 0, [1])], "contiguous"),
}


@pytest.mark.parametrize("case", BAD_RUNS)
def test_invalid_runs(case: str, model: Model) -> None:
    """A clear error, after which the program still works."""
    make, message = BAD_RUNS[case]
    with pytest.raises(ShapeError, match=f"run: .*{message}"):
        model.program.run(make(model))
    ids = model.ids(3)
    assert same_bits(model.run(model.pages(3), 0, ids), Model(1).run(model.pages(3), 0, ids))


def test_ids_and_outputs_of_any_kind(model: Model) -> None:
    ids = model.ids(5)
    base = model.run(model.pages(5), 0, ids)
    forms: list[Any] = [ids.tolist(), tuple(ids.tolist()), ids.astype(np.int64), ids.astype(np.uint8)]
    for form in forms:
        outputs: Any = np.arange(5) if isinstance(form, np.ndarray) else [*range(5)]
        assert same_bits(model.program.run([Slice(model.pages(5), 0, form, outputs)]), base)


def test_nothing_to_run(model: Model) -> None:
    assert model.program.run([]).shape == (0, model.VOCABULARY)
    assert model.program.run([Slice(model.pages(2), 0, [1, 2])]).shape == (0, model.VOCABULARY)


def test_pages_are_arrays_or_a_table(model: Model) -> None:
    ids = model.ids(40)
    arrays = [model.kv.new_page()]
    table = PageTable(arrays)
    first = model.program.run([Slice(arrays, 0, ids[:30], [29])])
    assert same_bits(model.program.run([Slice(model.pages(30), 0, ids[:30], [29])]), first)
    more = model.program.run([Slice(table, 30, ids[30:], [9])])
    assert same_bits(more, model.run(model.pages(40), 0, ids, [39]))


def test_the_table_cannot_change_under_a_run(model: Model) -> None:
    """Addresses are locked for the duration of a run, and unlocked after a failed run too."""
    table = model.pages(64)
    model.run(table, 0, model.ids(3))
    table.append(model.kv.new_page())
    with pytest.raises(ShapeError):
        model.program.run([Slice(table, 0, [1]), Slice(table, 0, [77])])
    table.append(model.kv.new_page())
    held = memoryview(table.addresses)
    with pytest.raises(BufferError):
        table.append(model.kv.new_page())
    with pytest.raises(BufferError):
        table.truncate(1)
    assert len(table) == len(table.addresses) == 3
    held.release()


def test_results_are_new_arrays(model: Model) -> None:
    ids = model.ids(4)
    first = model.run(model.pages(4), 0, ids)
    kept = first.copy()
    model.run(model.pages(4), 0, model.ids(4, 9))
    assert same_bits(first, kept)
    first[:] = 0
    assert same_bits(model.run(model.pages(4), 0, ids), kept)


def test_a_program_dies_with_its_last_reference() -> None:
    """Without the garbage collector, because it has weights and buffers."""
    gc.disable()
    try:
        model = Model(2)
        model.run(model.pages(3), 0, model.ids(3))
        weight = model.program.operations[0].params["table"]
        watch = weakref.ref(weight)
        del weight, model
        assert watch() is None
    finally:
        gc.enable()


# ---- timing


@pytest.mark.parametrize("threads", [1, 3])
def test_timings(threads: int, level: str) -> None:
    model = Model(threads, heads=(4, 2, 40))
    ids, pages = model.ids(100), model.pages(101)
    timed_run(model.program, [Slice(pages, 0, ids, [99])])
    for part in (Slice(pages, 0, ids, [0, 99]), Slice(pages, 100, ids[:1], [0])):
        _, timings = timed_run(model.program, [part])
        assert [timing.operation for timing in timings] == model.program.operations
        end = 0.0
        for timing in timings:
            assert isinstance(timing, OpTiming)
            assert timing.start_ns >= end - 1
            end = timing.start_ns + timing.ms * 1e6
            assert timing.ms >= 0
            assert 0 <= timing.busy <= 1
            assert timing.bytes > 0
            assert timing.flops >= 0
        phases = {timing.operation.name: timing for timing in timings if timing.phases}
        assert sorted(phases) == ["0.attend", "0.prepare", "1.attend", "1.prepare"]
        for name, timing in phases.items():
            expected = ["QK^T", "softmax", "A*V"] if "attend" in name else ["QKnorm", "RoPE", "append"]
            assert list(timing.phases) == expected
            assert sum(timing.phases.values()) == pytest.approx(timing.ms)
            assert all(ms >= 0 for ms in timing.phases.values())
        assert phases["0.prepare"].phases["QKnorm"] == 0  # layer 0 has none
        assert phases["1.prepare"].phases["QKnorm"] > 0


def test_bytes_and_operations() -> None:
    """Linear layers: packed weight and activations, two operations for a multiply-add; attention: its keys."""
    layout = KVLayout(1, 2, 16)
    program = Program(100, layout, 1)
    x = program.embed("x", pack(ones(9, 32)), program.buffer("x", 32))
    qkv, out = program.buffer("qkv", 96), program.buffer("out", 32)
    weight = q8(96, 32)
    program.linear("linear", x, [weight], qkv)
    program.prepare_qkv("prepare", qkv, 0, 2)
    program.attention("full", qkv, 0, 2, out, 1.0)
    program.attention("window", qkv, 0, 2, out, 1.0, window=10)
    timings = {t.operation.name: t for t in timed_run(program, [Slice(new_pages(layout, 80), 70, [0] * 5)])[1]}
    assert timings["linear"].bytes == weight.nbytes + 4 * 5 * (32 + 96)
    assert timings["linear"].flops == 2 * 5 * 32 * 96
    a_key = 2 * 2 * 16 * 2  # K and V of two heads in float16
    assert timings["full"].bytes == 75 * a_key + 4 * 5 * (96 + 32)
    assert timings["full"].flops == 4 * 2 * 16 * (71 + 72 + 73 + 74 + 75)
    assert timings["window"].bytes == 14 * a_key + 4 * 5 * (96 + 32)
    assert timings["window"].flops == 4 * 2 * 16 * 50


def test_an_int8_copy_belongs_to_the_operation_before() -> None:
    """Quantising attention's output counts for attention: one timing, whose phases have the whole wall time."""
    layout = KVLayout(1, 1, 64)
    program = Program(64, layout, 2)
    qkv = program.embed("x", pack(normal(np.random.default_rng(0), 64, 192)), program.buffer("qkv", 192))
    program.prepare_qkv("prepare", qkv, 0, 1)
    heads = program.attention("attention", qkv, 0, 1, program.buffer("heads", 64), 0.125)
    program.linear("out", heads, [q8(32, 64)], program.buffer("out", 32))
    _, timings = timed_run(program, [Slice(new_pages(layout, 64), 0, np.arange(64, dtype=np.int32))])
    assert [timing.operation.name for timing in timings] == ["x", "prepare", "attention", "out"]
    assert sum(timings[2].phases.values()) == pytest.approx(timings[2].ms)
