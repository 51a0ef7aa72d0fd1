"""Mixtures of experts: routes, dispatched rows, each expert's product, and the weighted sum."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from core_cases import F32Array, normal, random_weight, same_bits, timed_run

from pyml_core import Program, ShapeError, Slice, pack, reference
from pyml_core.records import Buffer
from pyml_core.reference import Routes
from pyml_core.tensor import PackedMatrix
from pyml_core.timing import Capture

STAGES = ("route", "dispatch", "up", "activation", "down", "combine")


class Mixture:
    """K of E experts with two matrices each, and their weighted sum; ids look up rows of x and of the logits."""

    def __init__(
        self,
        rng: np.random.Generator,
        logits: F32Array,
        n_chosen: int,
        dtype: str = "f32",
        width: int = 32,
        inner: int = 32,
        threads: int = 2,
        normalize: bool = True,
        max_tokens: int = 700,
    ) -> None:
        n_experts = logits.shape[1]
        self.x = normal(rng, len(logits), width)
        self.logits = logits
        self.up = [pack(random_weight(dtype, inner, width, rng)) for _ in range(n_experts)]
        self.down = [pack(random_weight(dtype, width, inner, rng)) for _ in range(n_experts)]
        self.n_chosen, self.normalize, self.max_tokens = n_chosen, normalize, max_tokens
        self.threads = threads

    def program(self, last: str = "combine", threads: int | None = None, max_tokens: int | None = None) -> Program:
        """Return the program up to the operation ``last``."""
        p = Program(max_tokens or self.max_tokens, threads=threads or self.threads)
        width, inner, k = self.x.shape[1], self.up[0].shape[0], self.n_chosen
        x = p.embed("x", pack(self.x), p.buffer("x", width))
        logits = p.embed("logits", pack(self.logits), p.buffer("logits", self.logits.shape[1]))
        routes = p.buffer("routes", 2 * k)
        rows, hidden = p.buffer("rows", width, copies=k), p.buffer("hidden", inner, copies=k)
        done, steps = p.buffer("done", width, copies=k), iter(STAGES)
        declarations: list[Callable[[], object]] = [
            lambda: p.route("route", logits, k, routes, self.normalize),
            lambda: p.dispatch("dispatch", x, routes, rows),
            lambda: p.expert_linear("up", rows, routes, [(matrix,) for matrix in self.up], hidden),
            lambda: p.activate("activation", hidden, "silu", hidden),
            lambda: p.expert_linear("down", hidden, routes, [(matrix,) for matrix in self.down], done),
            lambda: p.combine("combine", done, routes, x, accumulate=True),
        ]
        for declare in declarations:
            declare()
            if next(steps) == last:
                break
        return p

    def run(self, ids: Sequence[int], last: str = "combine", threads: int | None = None) -> F32Array:
        return self.program(last, threads).run([Slice((), 0, ids)])


def near(got: F32Array, expected: F32Array, tolerance: float = 2e-6) -> None:
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= tolerance * max(1.0, np.abs(expected).max())


# ---- the reference


def test_route_by_hand() -> None:
    logits = np.log(np.array([[1, 2, 5, 2], [3, 1, 1, 1]], np.float32))
    routes = reference.route(logits, 2)
    np.testing.assert_array_equal(routes.experts, [[2, 1], [0, 1]])  # equal ones by index
    np.testing.assert_allclose(routes.weights, [[5 / 7, 2 / 7], [3 / 4, 1 / 4]], rtol=1e-6)
    np.testing.assert_allclose(reference.route(logits, 2, False).weights, [[0.5, 0.2], [0.5, 1 / 6]], rtol=1e-6)


def test_dispatch_and_combine_by_hand() -> None:
    routes = Routes(np.array([[2, 0], [0, 1]]), np.array([[0.5, 0.25], [1.0, 2.0]], np.float32))
    x = np.array([[10.0], [20.0]], np.float32)
    rows = reference.dispatch(x, routes)
    np.testing.assert_array_equal(rows, [[10], [20], [20], [10]])  # expert 0: both tokens; 1: the second; 2: the first
    experts = [[pack(np.full((1, 1), factor, np.float32))] for factor in (1, 3, 5)]
    done = reference.expert_linear(rows, routes, experts)
    np.testing.assert_array_equal(done, [[10], [20], [60], [50]])
    np.testing.assert_array_equal(reference.combine(done, routes), [[27.5], [140]])


# ---- kernels


@pytest.mark.parametrize(("n_experts", "n_chosen"), [(1, 1), (5, 2), (8, 8), (19, 3), (33, 1), (128, 8), (1024, 4)])
@pytest.mark.parametrize("normalize", [True, False])
def test_routes(n_experts: int, n_chosen: int, normalize: bool, level: str, rng: np.random.Generator) -> None:
    mixture = Mixture(rng, normal(rng, 67, n_experts, scale=3), n_chosen, width=1, inner=1, normalize=normalize)
    got = mixture.run(range(67), "route")
    expected = reference.run(mixture.program("route"), [Slice((), 0, range(67))])
    np.testing.assert_array_equal(got[:, :n_chosen], expected[:, :n_chosen])
    near(got[:, n_chosen:], expected[:, n_chosen:], 5e-7)


def test_equal_and_extreme_logits(level: str, rng: np.random.Generator) -> None:
    logits = np.zeros((5, 20), np.float32)
    logits[1, 7] = logits[1, 3] = 1.0
    logits[2] = -3e38
    logits[3, 18] = 3e38
    logits[4, 11] = np.inf
    got = Mixture(rng, logits, 3, width=1, inner=1).run(range(5), "route")
    np.testing.assert_array_equal(got[:, :3], [[0, 1, 2], [3, 7, 0], [0, 1, 2], [18, 0, 1], [11, 0, 1]])
    np.testing.assert_allclose(got[:4, 3:].sum(axis=1), 1, rtol=1e-6)
    assert not np.isfinite(got[4, 3])  # infinity propagates


@pytest.mark.parametrize("dtype", ["f32", "bf16", "q8_0", "q4_1", "q6_K"])
def test_every_stage(dtype: str, level: str, rng: np.random.Generator) -> None:
    width, inner = (33, 47) if dtype in ("f32", "bf16") else (256, 512) if dtype == "q6_K" else (96, 32)
    mixture = Mixture(rng, normal(rng, 70, 6), 2, dtype, width, inner)
    ids = [*range(70), *range(0, 70, 3), 5, 5]
    for stage in STAGES:
        got = mixture.run(ids, stage)
        expected = reference.run(mixture.program(stage), [Slice((), 0, ids)])
        error = np.linalg.norm(got - expected) / np.linalg.norm(expected)
        # A rounding difference in an activation can change its int8 code.
        assert error < (1e-6 if dtype in ("f32", "bf16") or stage not in ("down", "combine") else 1e-3), stage


@pytest.mark.parametrize("dtype", ["f32", "q8_0", "q4_K"])
def test_bits_do_not_depend_on_other_tokens(dtype: str, level: str, rng: np.random.Generator) -> None:
    """Alone, in chunks, among others; one expert has more tokens than a block of rows, some have none."""
    logits = normal(rng, 601, 9)
    logits[:, 4] += 4  # chosen by nearly all tokens
    logits[:, 7] = -100
    width = 256 if dtype == "q4_K" else 64
    mixture = Mixture(rng, logits, 3, dtype, width, width)
    ids = list(range(601))
    base = mixture.run(ids, threads=1)
    for threads in (2, 3, 8):
        assert same_bits(mixture.run(ids, threads=threads), base), threads
    for index in (0, 300, 600):
        assert same_bits(mixture.run([index]), base[index : index + 1])
    for size in (7, 257):
        program = mixture.program(max_tokens=size)
        parts = [program.run([Slice((), 0, ids[start : start + size])]) for start in range(0, 601, size)]
        assert same_bits(np.concatenate(parts), base), size
    assert same_bits(mixture.run(ids[::-1])[::-1].copy(), base)


def test_an_expert_without_tokens_is_not_read(level: str, rng: np.random.Generator) -> None:
    logits = np.full((40, 6), -50, np.float32)
    logits[:, [1, 4]] = normal(rng, 40, 2)
    mixture = Mixture(rng, logits, 2, width=48, inner=80)
    expected = mixture.run(range(40))
    for matrices in (mixture.up, mixture.down):
        for expert in (0, 2, 3, 5):
            broken = matrices[expert]
            matrices[expert] = PackedMatrix(np.full_like(broken.data, 0xFF), broken.dtype, broken.shape)  # NaN
    assert same_bits(mixture.run(range(40)), expected)


def test_several_layers_share_the_buffers(level: str, rng: np.random.Generator) -> None:
    """Each layer overwrites the routes."""
    first, second = (Mixture(rng, normal(rng, 30, 5), 2, width=16, inner=24) for _ in range(2))
    second.x = first.run(range(30))
    expected = second.run(range(30))
    p = first.program()
    buffers = {buf.name: buf for buf in p.buffers}
    x, routes, rows, hidden, done = (buffers[name] for name in ("x", "routes", "rows", "hidden", "done"))
    p.embed("logits2", pack(second.logits), buffers["logits"])
    p.route("route2", buffers["logits"], 2, routes)
    p.dispatch("dispatch2", x, routes, rows)
    p.expert_linear("up2", rows, routes, [(matrix,) for matrix in second.up], hidden)
    p.activate("activation2", hidden, "silu", hidden)
    p.expert_linear("down2", hidden, routes, [(matrix,) for matrix in second.down], done)
    p.combine("combine2", done, routes, x, accumulate=True)
    assert same_bits(p.run([Slice((), 0, range(30))]), expected)


def test_cost_is_that_of_the_experts_that_can_have_been_chosen(rng: np.random.Generator) -> None:
    mixture = Mixture(rng, normal(rng, 40, 8), 2, "q8_0", 64, 96)
    for count, experts in ((1, 2), (3, 6), (40, 8)):
        _, timings = timed_run(mixture.program(), [Slice((), 0, range(count))])
        up = next(timing for timing in timings if timing.operation.name == "up")
        assert up.flops == 2 * 2 * count * 64 * 96
        assert up.bytes == experts * mixture.up[0].nbytes + 4 * 2 * count * (64 + 96 + 4)


@pytest.mark.parametrize("n_chosen", [1, 3])
def test_captured_rows_are_in_the_order_of_the_routes(n_chosen: int, rng: np.random.Generator) -> None:
    """By token, then by expert, even if later layers overwrite the routes."""
    mixture = Mixture(rng, normal(rng, 30, 5), n_chosen, width=16, inner=24)
    program = mixture.program()
    batch = [Slice((), 0, range(20)), Slice((), 0, [7, 29])]
    captures = {op.name: Capture(op) for op in program.operations}
    timed_run(program, batch, list(captures.values()))
    for part, index in zip(batch, (0, 1), strict=True):
        expected = reference.run(mixture.program("route"), [part])
        near(captures["route"].arrays[index], expected)
        rows = np.repeat(mixture.x[list(part.ids)], n_chosen, axis=0)
        np.testing.assert_array_equal(captures["dispatch"].arrays[index], rows)
        done = captures["down"].arrays[index]
        assert captures["down"].nbytes(part) == done.nbytes
        weights = captures["route"].arrays[index][:, n_chosen:]
        total = (done.reshape(len(part.ids), n_chosen, -1) * weights[..., None]).sum(axis=1)
        near(captures["combine"].arrays[index], mixture.x[list(part.ids)] + total, 1e-5)


# ---- errors


def parts() -> tuple[Program, Buffer, Buffer, Buffer, PackedMatrix]:
    """Return a program with routes to 2 of 3 experts; its buffers x, routes and rows; and a matrix."""
    p = Program(4)
    x = p.embed("x", pack(np.zeros((2, 8), np.float32)), p.buffer("x", 8))
    logits = p.embed("logits", pack(np.zeros((2, 3), np.float32)), p.buffer("logits", 3))
    routes = p.route("route", logits, 2, p.buffer("routes", 4))
    rows = p.dispatch("dispatch", x, routes, p.buffer("rows", 8, copies=2))
    return p, x, routes, rows, pack(np.zeros((8, 8), np.float32))


def test_routes_that_do_not_fit() -> None:
    p, x, routes, rows, matrix = parts()
    other = p.buffer("other", 8, copies=3)
    with pytest.raises(ShapeError, match=r"a: expected 1 to 1024 experts and at most as many chosen ones, got 8 and 9"):
        p.route("a", x, 9, p.buffer("more", 18))
    with pytest.raises(ShapeError, match="a: expected routes to be 6 wide, it is 4"):
        p.route("a", x, 3, routes)
    with pytest.raises(ShapeError, match="a: expected other to have 2 rows a token, it has 3"):
        p.dispatch("a", x, routes, other)
    with pytest.raises(ShapeError, match="a: expected routes in x, but no route operation writes to it"):
        p.dispatch("a", x, x, rows)
    with pytest.raises(ShapeError, match="a: expected 3 experts as in routes, got 2"):
        p.expert_linear("a", rows, routes, [(matrix,)] * 2, p.buffer("out", 8, copies=2))
    with pytest.raises(ShapeError, match="a: expected matrices of equal shapes for every expert, got 2 kinds"):
        p.expert_linear("a", rows, routes, [(matrix,), (matrix,), (matrix, matrix)], p.buffer("out", 8, copies=2))
    with pytest.raises(ShapeError, match="a: expected rows to have 1 rows a token, it has 2"):
        p.expert_linear("a", rows, routes, [(matrix,)] * 3, p.buffer("out", 8))
    with pytest.raises(ShapeError, match="a: expected x to have 2 rows a token, it has 1"):
        p.combine("a", x, routes, p.buffer("out", 8))
    with pytest.raises(ShapeError, match="a: expected rows to have 1 rows a token, it has 2"):
        p.linear("a", rows, [matrix], p.buffer("out", 8))
    with pytest.raises(ShapeError, match="a: expected twice to have 1 rows a token, it has 2"):
        p.embed("a", matrix, p.buffer("twice", 8, copies=2))
    with pytest.raises(ShapeError, match="x: expected 1 copy, or several of rows 'tokens', got 2 of 'outputs'"):
        p.buffer("x", 8, "outputs", copies=2)


def test_layers_that_share_routes_must_choose_alike() -> None:
    p, x, routes, _, _ = parts()
    p.route("again", x, 2, routes)
    with pytest.raises(ShapeError, match="again: expected 2 of 3 experts as before, got 2 of 8"):
        p.run([Slice((), 0, [0])])
