"""Captures of a run: outputs of operations, and the scores and probabilities of attention."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from core_cases import F32Array, Model, copy_pages, new_pages, normal, same_bits, timed_run

from pyml_core import KVLayout, Program, ShapeError, Slice, pack, reference
from pyml_core.kv_layout import PageTable
from pyml_core.timing import Capture

TOKENS = 150


def everything(program: Program) -> list[Capture]:
    """Return every possible capture."""
    attends = [operation for operation in program.operations if operation.kind == "attention"]
    special = [Capture(operation, what) for operation in attends for what in ("scores", "probabilities")]
    return [*(Capture(operation) for operation in program.operations), *special]


def captured(model: Model, chunks: list[int]) -> dict[tuple[str, str], list[F32Array]]:
    """Return the captures of a run over each chunk; check that logits equal those of runs without captures."""
    ids, pages, plain, start = model.ids(TOKENS), model.pages(TOKENS), model.pages(TOKENS), 0
    found: dict[tuple[str, str], list[F32Array]] = {}
    for count in chunks:
        part = Slice(pages, start, ids[start : start + count], range(count))
        wanted = everything(model.program)
        result, _ = timed_run(model.program, [part], wanted)
        assert same_bits(result, model.run(plain, start, np.array(part.ids, np.int32)))
        assert all(np.array_equal(a, b) for a, b in zip(pages, plain, strict=True))
        for capture in wanted:
            (array,) = capture.arrays
            found.setdefault((capture.operation.name, capture.what), []).append(array)
        start += count
    return found


@pytest.mark.parametrize(
    "shape",
    [
        {"heads": (4, 1, 64), "window": 0},
        {"heads": (6, 2, 40), "kv_dtype": "f32", "window": 70, "soft_cap": 5.0},
        {"heads": (3, 1, 64), "kv_dtype": "int8", "window": 70},
    ],
    ids=["plain", "window_cap", "int8"],
)
def test_threads_chunks_and_tracing_change_no_bit(shape: dict[str, Any], level: str) -> None:
    """Rows are bit-identical; only keys after the chunk are missing."""
    base = captured(Model(1, **shape), [TOKENS])
    for threads, chunks in ((2, [TOKENS]), (8, [70, 1, 1, 78])):
        model = Model(threads, **shape)
        for key, parts in captured(model, chunks).items():
            expected, row = base[key][0], 0
            for part in parts:
                if part.ndim == 2:
                    assert same_bits(part, expected[row : row + len(part)]), key
                    row += len(part)
                    continue
                rows, keys = part.shape[1:]
                assert same_bits(part, np.ascontiguousarray(expected[:, row : row + rows, :keys])), key
                row += rows


@pytest.mark.parametrize("threads", [1, 3])
def test_attention_is_that_of_the_reference(threads: int, level: str) -> None:
    """Scores and probabilities agree with the reference, and with the captured output and queries."""
    heads, n_kv, dim, window, cap = 6, 2, 24, 40, 3.0
    layout = KVLayout(1, n_kv, dim, "f32")
    rng = np.random.default_rng(3)
    width = (heads + 2 * n_kv) * dim
    program = Program(TOKENS, layout, threads)
    qkv = program.embed("x", pack(normal(rng, TOKENS, width)), program.buffer("x", width))
    program.prepare_qkv("prepare", qkv, 0, heads)
    out = program.buffer("out", heads * dim)
    program.attention("attend", qkv, 0, heads, out, dim**-0.5, window, cap)
    pages = new_pages(layout, TOKENS)
    attend = program.operations[-1]
    wanted = [
        Capture(program.operations[1]),
        *(Capture(attend, what) for what in ("output", "scores", "probabilities")),
    ]
    timed_run(program, [Slice(pages, 0, np.arange(TOKENS, dtype=np.int32))], wanted)
    prepared, output, scores, probabilities = (capture.arrays[0] for capture in wanted)
    keys, values = reference.read_kv(layout, list(pages), 0, TOKENS)
    q = prepared[:, : heads * dim].reshape(TOKENS, heads, dim).astype(np.float64)
    all_keys = np.repeat(keys, heads // n_kv, axis=0).astype(np.float64)
    all_values = np.repeat(values, heads // n_kv, axis=0).astype(np.float64)
    expected = cap * np.tanh(np.einsum("thd,hsd->hts", q, all_keys) * dim**-0.5 / cap)
    behind = np.arange(TOKENS)[:, None] - np.arange(TOKENS)
    expected = np.where((behind >= 0) & (behind < window), expected, -np.inf)
    np.testing.assert_array_equal(scores == -np.inf, expected == -np.inf)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=2e-6)
    weights = np.exp(expected - expected.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    np.testing.assert_allclose(probabilities, weights, rtol=0, atol=1e-6)
    assert (probabilities[expected == -np.inf] == 0).all()
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-6)
    rebuilt = np.einsum("hts,hsd->thd", probabilities, all_values).reshape(TOKENS, -1)
    np.testing.assert_allclose(output, rebuilt, rtol=0, atol=2e-6)


def test_several_slices() -> None:
    """Each slice has its own arrays, as if it ran alone."""
    model = Model(2, window=50)
    ids, held = model.ids(TOKENS), model.pages(TOKENS)
    model.run(held, 0, ids[:130])
    parts = [(model.pages(10), 0, 10), (held, 130, 1), (model.pages(TOKENS), 0, 70)]

    def slices(chosen: list[tuple[PageTable, int, int]]) -> list[Slice]:
        return [Slice(copy_pages(model.kv, pages), start, ids[:count], [count - 1]) for pages, start, count in chosen]

    together = everything(model.program)
    timed_run(model.program, slices(parts), together)
    for index, part in enumerate(parts):
        alone = everything(model.program)
        timed_run(model.program, slices([part]), alone)
        for both, single in zip(together, alone, strict=True):
            assert same_bits(np.ascontiguousarray(both.arrays[index]), np.ascontiguousarray(single.arrays[0]))


def test_the_same_capture_twice_and_none_at_all() -> None:
    model = Model(2)
    attend = next(operation for operation in model.program.operations if operation.kind == "attention")
    wanted = [Capture(attend, "probabilities"), Capture(attend, "probabilities"), Capture(model.program.operations[0])]
    part = Slice(model.pages(20), 0, model.ids(20))
    timed_run(model.program, [part], wanted)
    np.testing.assert_array_equal(wanted[0].arrays[0], wanted[1].arrays[0])
    kept = wanted[2].arrays[0].copy()
    model.program.run([Slice(model.pages(20), 0, model.ids(20, seed=9))])
    np.testing.assert_array_equal(wanted[2].arrays[0], kept)  # later runs do not change it


def test_sizes() -> None:
    """As computed in advance, except for the maxima of probabilities and keys after the last token."""
    model = Model(1)
    part = Slice(model.pages(128), 0, model.ids(128), [3, 7])
    for capture in everything(model.program):
        timed_run(model.program, [part], [capture])
        extra = capture.arrays[0].nbytes // 64 if capture.what == "probabilities" else 0
        assert capture.nbytes(part) == capture.arrays[0].nbytes + extra


def test_invalid_captures() -> None:
    model, other = Model(1), Model(1)
    with pytest.raises(ShapeError, match=r"^capture: operation 0\.norm \(rms_norm\) has no 'scores'$"):
        Capture(next(operation for operation in model.program.operations if operation.name == "0.norm"), "scores")
    part = Slice(model.pages(3), 0, model.ids(3))
    with pytest.raises(ShapeError, match="embedding is not an operation of this program"):
        timed_run(model.program, [part], [Capture(other.program.operations[0])])


def test_thread_timings(level: str) -> None:
    """Each thread's span is within its operation's time; operations do not overlap; copying is between them."""
    model = Model(3)
    _, timings = timed_run(model.program, [Slice(model.pages(100), 0, model.ids(100))], everything(model.program))
    ends = [0, 0, 0]
    for timing in timings:
        assert len(timing.thread_spans) == 3
        for thread, span in enumerate(timing.thread_spans):
            assert ends[thread] <= span.start_ns <= span.end_ns <= timing.start_ns + round(timing.ms * 1e6)
            assert span.busy_ms <= (span.end_ns - span.start_ns) / 1e6 + 1e-9
            assert sum(span.phases) <= span.busy_ms + 1e-9
            ends[thread] = span.end_ns


def test_the_operations_after_one_on_other_rows(level: str) -> None:
    """``run_after`` with a quantised head and a soft-cap, on rows of an operation and on other rows."""
    model = Model(2)
    by_name = {operation.name: operation for operation in model.program.operations}
    last = Capture(by_name["1.post"])
    logits, _ = timed_run(model.program, [Slice(model.pages(TOKENS), 0, model.ids(TOKENS), range(TOKENS))], [last])
    (hidden,) = last.arrays
    assert same_bits(model.program.run_after("select", hidden), logits)
    assert same_bits(model.program.run_after("select", hidden[7:9] * 1), logits[7:9])
    assert same_bits(model.program.run_after("cap", logits), logits)  # there is no later operation
    width = Model.WIDTH
    for name, rows, message in (
        ("nothing", hidden, r"^nothing: expected the name of an operation of this program$"),
        ("select", hidden[:, 1:], rf"^select: expected rows of shape \(R, {width}\), got \(150, {width - 1}\)$"),
        ("select", hidden[:0], rf"^select: expected rows of shape \(R, {width}\), got \(0, {width}\)$"),
        ("1.post", hidden, r"^1\.post: select needs more than the rows of 1\.post$"),
        ("1.norm", hidden, r"^1\.norm: 1\.prepare needs more than the rows of 1\.norm$"),
    ):
        with pytest.raises(ShapeError, match=message):
            model.program.run_after(name, rows)
