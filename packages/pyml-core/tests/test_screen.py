"""The screened head: its results are those of the full head, bit for bit, also for difficult weights and states."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from core_cases import F32Array, normal, random_weight, same_bits, timed_run

from pyml_core import Program, ShapeError, Slice, Tensor, Top, TopLogits, pack, reference
from pyml_core.panels import pack as pack_in_numpy
from pyml_core.screen import MAX_STATES, Z_SCORE
from pyml_core.tensor import PackedMatrix, pack_parts
from pyml_core.timing import Capture
from pyml_core.want import MAX_TOP, top_of


def split(weight: Tensor) -> PackedMatrix:
    return pack_parts([weight], weight.dtype, weight.shape, split=True)


def head(weight: Tensor, x: F32Array, z_score: float | None = Z_SCORE, threads: int = 2) -> tuple[Program, list[Slice]]:
    """Return a program whose states are x; without a z-score, its head is not split and not screened."""
    program = Program(len(x), threads=threads)
    source = program.embed("x", pack(np.ascontiguousarray(x)), program.buffer("x", x.shape[1]))
    state = program.select("select", source, program.buffer("state", x.shape[1], "outputs"))
    matrix = pack(weight) if z_score is None else split(weight)
    program.linear("head", state, [matrix], program.buffer("logits", weight.shape[0], "outputs"))
    if z_score is not None:
        program.screen(z_score)
    return program, [Slice((), 0, np.arange(len(x), dtype=np.int32), range(len(x)))]


def assert_finds_the_top(weight: Tensor, x: F32Array, ks: Sequence[int] = (1, 40)) -> list[TopLogits]:
    """Check the k largest logits against the full head, for every k. Returns the results for the last k."""
    full = head(weight, x, None)[0].run(head(weight, x, None)[1])
    program, batch = head(weight, x)
    found: list[TopLogits] = []
    for k in ks:
        found = program.run(batch, Top(k))
        for row, top in zip(full, found, strict=True):
            expected = top_of(row, k)
            assert np.array_equal(top.ids, expected.ids)
            assert same_bits(top.logits, expected.logits)
            assert top.ids.dtype == np.int64
            assert top.ids[top.logits.argmax()] == row.argmax()
    return found


def q8(weight: npt.ArrayLike) -> Tensor:
    return Tensor.from_array(np.asarray(weight, np.float32)).convert("q8_0")


def blocks_of(codes: npt.ArrayLike, scale: npt.ArrayLike = 0.01) -> Tensor:
    """Return a q8_0 weight with these codes (N, K), and one scale or a scale for each block (N, K / 32)."""
    rows = np.asarray(codes, np.int8)
    shape = (rows.shape[0], rows.shape[1] // 32)
    blocks = np.empty((*shape, 34), np.uint8)
    blocks[..., :2] = np.broadcast_to(np.asarray(scale, np.float16), shape).copy().view(np.uint8).reshape(*shape, 2)
    blocks[..., 2:] = rows.reshape(*shape, 32).view(np.uint8)
    return Tensor(blocks.reshape(-1), "q8_0", rows.shape)


# ---- the split layout


@pytest.mark.parametrize("rows", [1, 15, 16, 33])
def test_split_panels_hold_the_stored_bits(rows: int, level: str, rng: np.random.Generator) -> None:
    for columns in (32, 96, 256, 288, 640):
        weight = random_weight("q8_0", rows, columns, rng)
        packed = split(weight)
        assert np.array_equal(packed.data, pack_in_numpy(weight.data, "q8_0", weight.shape, split=True))
        assert packed.nbytes == pack(weight).nbytes
        assert np.array_equal(packed.unpack().data, weight.data)
        assert np.array_equal(packed.unpack([rows - 1]).data, weight.take_rows(np.array([rows - 1])).data)
        assert same_bits(packed.dequantize(), weight.to_f32())


def test_products_are_those_of_the_ordinary_layout(level: str, rng: np.random.Generator) -> None:
    for count, columns, rows in ((1, 96, 17), (3, 640, 33), (5, 288, 100), (40, 256, 50)):
        weight, x = random_weight("q8_0", rows, columns, rng), normal(rng, count, columns)
        program, batch = head(weight, x)
        plain, same = head(weight, x, None)
        assert same_bits(program.run(batch), plain.run(same))


def test_only_q8_0_is_split(rng: np.random.Generator) -> None:
    with pytest.raises(ShapeError, match="expected q8_0 to be split into nibbles, got q4_0"):
        split(random_weight("q4_0", 16, 32, rng))


# ---- statistics of rows, and bounds


def test_statistics_are_those_of_the_reference(level: str, rng: np.random.Generator) -> None:
    crowded = np.clip(np.rint(rng.standard_normal((40, 96)) * 3), -127, 127)
    crowded[:, ::32] = 127
    weights = [
        random_weight("q8_0", 33, 288, rng),
        q8(normal(rng, 50, 64)),
        blocks_of(crowded),
        blocks_of(np.zeros((3, 32))),
    ]
    for weight in weights:
        stats = split(weight)
        program, _ = head(weight, normal(rng, 1, weight.shape[1]))
        got = program.screening[0].params["row_stats"].transpose(1, 0, 2).reshape(4, -1)[:, : weight.shape[0]]
        for name, one, expected in zip(reference.RowStats._fields, got, reference.row_stats(stats), strict=True):
            assert np.allclose(one.astype(np.float32), expected, rtol=2e-3, atol=2e-3), name


def test_bounds_hold(rng: np.random.Generator) -> None:
    """The reference's bounds hold for its product; deviations from coarse logits are below six standard deviations."""
    weight, x = q8(normal(rng, 4000, 256)), normal(rng, 20, 256)
    x += 2 * weight.to_f32()[:20]
    lower, upper = reference.screen_bounds(x, weight, reference.row_stats(weight), Z_SCORE)
    logits = reference.linear(x, weight)
    assert (lower <= logits).all()
    assert (logits <= upper).all()
    deviations = np.abs(logits - (lower + upper) / 2) / ((upper - lower) / 2) * Z_SCORE
    assert 3.5 < deviations.max() < Z_SCORE  # the maximum of 80 000 normally distributed errors


@pytest.mark.parametrize("k", [1, 40])
def test_rescored_rows_are_those_that_the_bounds_leave(k: int, level: str, rng: np.random.Generator) -> None:
    weight, x = q8(normal(rng, 3000, 96)), normal(rng, 3, 96)
    x += 4 * weight.to_f32()[:3]
    lower, upper = reference.screen_bounds(x, weight, reference.row_stats(weight), Z_SCORE)
    program, batch = head(weight, x)
    tops = program.run(batch, Top(k))
    for top, logits, low, high in zip(tops, program.run(batch), lower, upper, strict=True):
        padding = (0, -len(logits) % 16)
        best, most, exact = (
            np.pad(part, padding, constant_values=-np.inf).reshape(-1, 16) for part in (low, high, logits)
        )
        first = np.argsort(-best.max(axis=1), kind="stable")[:k]
        threshold = np.sort(exact[first].reshape(-1))[-k]
        left = set(first) | set(np.flatnonzero(most.max(axis=1) >= threshold))
        assert abs(top.rescored - 16 * len(left)) <= 16 * (1 + 0.01 * len(left))


# ---- comparison with the full head


@pytest.mark.parametrize("states", [1, 2, 3, 4, 5, 7, MAX_STATES])
def test_the_top_of_any_number_of_states(states: int, level: str, rng: np.random.Generator) -> None:
    weight = q8(normal(rng, 3001, 160))
    for strength in (0.0, 3.0):
        x = normal(rng, states, 160) + np.float32(strength) * weight.to_f32()[rng.integers(0, 3001, states)]
        assert_finds_the_top(weight, x, (1, 2, 40, MAX_TOP))


def test_a_clear_winner_costs_few_rows(rng: np.random.Generator) -> None:
    weight = q8(normal(rng, 20000, 256))
    x = normal(rng, 2, 256) + 4 * weight.to_f32()[[5, 19999]]
    found = assert_finds_the_top(weight, x, (1,))
    assert [top.ids.tolist() for top in found] == [[5], [19999]]
    assert all(top.rescored == 16 for top in found)


def test_ties_are_all_found(level: str, rng: np.random.Generator) -> None:
    weight = normal(rng, 500, 64)
    weight[[7, 123, 499]] = 2 * weight[7]
    x = weight[[7, 8]] * 3
    found = assert_finds_the_top(q8(weight), x, (1, 2, 3, 40))
    assert {7, 123, 499} <= set(found[0].ids.tolist())
    same = np.broadcast_to(normal(rng, 64), (333, 64))  # all rows are equal
    found = assert_finds_the_top(q8(same), normal(rng, 2, 64), (1, 40))
    assert [len(top.ids) for top in found] == [333, 333]


@pytest.mark.parametrize("spread", [0.3, 1.0, 3.0, 10.0])
def test_codes_that_crowd_around_zero(spread: float, level: str, rng: np.random.Generator) -> None:
    """One weight of each block is large; the others have low nibbles 0 or 15, which are their sign and not noise."""
    codes = np.clip(np.rint(rng.standard_normal((3000, 256)) * spread), -120, 120)
    codes[:, ::32] = rng.choice([-127, 127], (3000, 8))
    weight = blocks_of(codes)
    rows = weight.to_f32()[rng.integers(0, 3000, 6)]
    small = np.where(np.abs(rows) > 1, 0, rows)  # states along the weights that the coarse pass resolves worst
    assert_finds_the_top(weight, np.concatenate([rows, small * 50, normal(rng, 6, 256) * 0.2 + small * 20]))


@pytest.mark.parametrize("code", [-128, -127, -1, 0, 1, 15, 16, 127])
def test_extreme_codes(code: int, level: str, rng: np.random.Generator) -> None:
    codes = rng.integers(-128, 128, (700, 96))
    codes[100:300] = code
    codes[300:500] = rng.choice([code, -code if code > -128 else 127], (200, 96))
    assert_finds_the_top(
        blocks_of(codes), np.concatenate([normal(rng, 4, 96), np.sign(codes[[100, 300]]) * 1.0]).astype("f4")
    )


def test_rows_of_very_different_sizes(level: str, rng: np.random.Generator) -> None:
    weight = normal(rng, 2000, 128) * (10.0 ** rng.uniform(-3, 2, (2000, 1))).astype(np.float32)
    weight[50:90] = 0
    weight[:, 32:64] *= 100  # blocks of different sizes too
    assert_finds_the_top(q8(weight), normal(rng, 6, 128))


def test_states_with_spikes(level: str, rng: np.random.Generator) -> None:
    """States with few large elements, so that errors are sums of few nibbles and not normally distributed."""
    weight = q8(normal(rng, 4000, 128))
    for spikes in (1, 2, 5, 12):
        x = normal(rng, 8, 128) * np.float32(0.01)
        for row in x:
            row[rng.choice(128, spikes, replace=False)] = 100 * rng.choice([-1, 1], spikes)
        assert_finds_the_top(weight, x)
    assert_finds_the_top(weight, np.eye(16, 128, dtype=np.float32))
    assert_finds_the_top(weight, np.zeros((2, 128), np.float32))  # all logits are 0


def test_states_that_are_not_finite_are_computed_in_full(level: str, rng: np.random.Generator) -> None:
    weight, x = q8(normal(rng, 300, 64)), normal(rng, 4, 64)
    x[1, 5], x[3, 40] = np.nan, np.inf
    program, batch = head(weight, x)
    full = program.run(batch)
    found = program.run(batch, Top(1))
    for row in (1, 3):
        assert len(found[row].ids) == 300  # there are no bounds, so that all logits are returned
        assert not np.isfinite(found[row].logits).any()
    for row in (0, 2):
        assert found[row].ids.tolist() == [full[row].argmax()]
    scales = np.full((300, 2), 0.01, np.float16)
    scales[[3, 77], 1] = np.nan, np.inf
    program, batch = head(blocks_of(rng.integers(-127, 128, (300, 64)), scales), normal(rng, 2, 64))
    full = program.run(batch)
    for row, top in zip(full, program.run(batch, Top(5)), strict=True):
        assert np.array_equal(top.ids, top_of(row, 5).ids)
        assert np.isnan(top.logits[top.ids == 3]).all()


# ---- runs


def test_results_depend_on_the_state_alone(rng: np.random.Generator) -> None:
    weight = q8(normal(rng, 5000, 96))
    x = normal(rng, 9, 96) + weight.to_f32()[:9]
    batch = head(weight, x)[1]
    found = [head(weight, x, threads=threads)[0].run(batch, Top(20)) for threads in (1, 2, 3, 8)]
    alone = [head(weight, x[i : i + 1])[0].run([Slice((), 0, [0], [0])], Top(20))[0] for i in range(9)]
    for other in (*found[1:], alone):
        for one, two in zip(found[0], other, strict=True):
            assert np.array_equal(one.ids, two.ids)
            assert same_bits(one.logits, two.logits)
            assert one.rescored == two.rescored


def test_both_heads_in_turn(rng: np.random.Generator) -> None:
    weight, x = q8(normal(rng, 400, 64)), normal(rng, 3, 64)
    program, batch = head(weight, x)
    full = program.run(batch)
    first = program.run(batch, Top(2))
    assert same_bits(program.run(batch), full)
    again = program.run(batch, Top(2))
    assert all(same_bits(one.logits, two.logits) for one, two in zip(first, again, strict=True))
    assert program.run([Slice((), 0, [0, 1], [])], Top(2)) == []


def test_more_than_a_screen_is_made_for(rng: np.random.Generator) -> None:
    """Many positions, many logits and programs without a screen use the full head."""
    weight = q8(normal(rng, 600, 64))
    x = normal(rng, MAX_STATES + 1, 64)
    for z_score, rows, k in ((Z_SCORE, x, 3), (Z_SCORE, x[:2], MAX_TOP + 1), (None, x[:2], 3), (Z_SCORE, x[:2], 1000)):
        program, batch = head(weight, rows, z_score)
        for row, top in zip(program.run(batch), program.run(batch, Top(k)), strict=True):
            assert np.array_equal(top.ids, top_of(row, k).ids)
            assert top.rescored == 600


def test_timings_have_the_operations_that_ran(rng: np.random.Generator) -> None:
    weight, x = q8(normal(rng, 4000, 64)), normal(rng, 2, 64)
    program, batch = head(weight, x)
    found, timings = timed_run(program, batch, want=Top(1))
    assert [timing.operation.name for timing in timings] == ["x", "select", "head.screen", "head.rescore"]
    screen, rescore = timings[-2:]
    assert rescore.rescored == sum(top.rescored for top in found)
    assert screen.rescored == 0
    assert 0.5 < screen.bytes / split(weight).nbytes < 0.8
    assert rescore.bytes < screen.bytes
    _, timings = timed_run(program, batch)
    assert [timing.operation.name for timing in timings] == ["x", "select", "head"]
    logits = Capture(program.operations[-1])  # needs all logits
    found, timings = timed_run(program, batch, [logits], Top(1))
    assert [timing.operation.name for timing in timings] == ["x", "select", "head"]
    assert same_bits(logits.arrays[0], program.run(batch))
    state = Capture(program.operations[1])
    _, timings = timed_run(program, batch, [state], Top(1))
    assert timings[-1].operation.name == "head.rescore"
    assert same_bits(state.arrays[0], x)


def test_declaring_a_screen(rng: np.random.Generator) -> None:
    program = Program(4)
    x = program.embed("x", pack(normal(rng, 9, 32)), program.buffer("x", 32))
    state = program.select("select", x, program.buffer("state", 32, "outputs"))
    with pytest.raises(ShapeError, match="expected the last operation to be a linear layer of one split matrix"):
        program.screen()
    logits = program.buffer("logits", 100, "outputs")
    program.linear("head", state, [pack(q8(normal(rng, 100, 32)))], logits)
    with pytest.raises(ShapeError, match="of one split matrix"):
        program.screen()
    program.operations.pop()
    program.linear("head", state, [split(q8(normal(rng, 100, 32)))], logits)
    program.screen()
    with pytest.raises(ShapeError, match="nothing can come after head, which is screened"):
        program.soft_cap("cap", logits, 30.0)
    with pytest.raises(ShapeError, match="expected at least 1 output of each position, got 0"):
        program.run([Slice((), 0, [0], [0])], Top(0))
