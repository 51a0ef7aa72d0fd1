"""Several runs in one call: the same tokens, logits, keys and values as one run after the other."""

from __future__ import annotations

import time
from array import array
from collections.abc import Sequence

import numpy as np
import pytest
from core_cases import Model, Watcher, normal, random_weight, same_bits

from pyml_core import Cancelled, CancelToken, Choice, Program, Sample, SampledToken, Sampler, ShapeError, Slice, pack
from pyml_core.sampling import SamplingRules
from pyml_core.tensor import PackedMatrix, pack_parts
from pyml_core.timing import Capture
from pyml_core.want import MAX_RUNS, NO_TOKENS

GREEDY = SamplingRules(greedy=True)


def greedy(
    program: Program,
    part: Slice,
    count: int,
    ends: Sequence[int] = (),
    history: array[int] = NO_TOKENS,
    repeat: int = 0,
) -> list[SampledToken]:
    """The most probable tokens of one text."""
    assert program.result is not None
    sampler = Sampler(GREEDY, 0, program.result.width)
    choice = Choice(sampler, part.start + 1, history=history, repeat=repeat)
    (found,) = program.run([part], Sample([choice], count, ends))
    return found


def one_by_one(program: Program, pages: object, start: int, token: int, count: int) -> list[tuple[int, float]]:
    found = []
    for position in range(start, start + count):
        (row,) = program.run([Slice(pages, position, [token], [0])])  # type: ignore[arg-type]
        token = int(row.argmax())
        found.append((token, float(row[token])))
    return found


def without_times(found: list[SampledToken]) -> list[tuple[int, float]]:
    assert all(one.ms > 0 for one in found)
    return [(one.token, one.logit) for one in found]


def chooser(head: PackedMatrix, screened: bool, rng: np.random.Generator) -> Program:
    """A program that makes logits of a token's embedding alone."""
    rows, width = head.shape
    program = Program(4, threads=2)
    x = program.embed("x", pack(normal(rng, rows, width)), program.buffer("x", width))
    state = program.select("select", x, program.buffer("state", width, "outputs"))
    program.linear("head", state, [head], program.buffer("logits", rows, "outputs"))
    if screened:
        program.screen()
    return program


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_same_as_one_by_one(threads: int, level: str) -> None:
    model, other = Model(threads), Model(threads)
    ids = model.ids(60)
    pages, others = model.pages(100), other.pages(100)
    model.run(pages, 0, ids)
    other.run(others, 0, ids)
    expected = one_by_one(other.program, others, 60, 3, 20)  # from one page to the next
    assert without_times(greedy(model.program, Slice(pages, 60, [3], [0]), 20)) == expected
    assert all(np.array_equal(a, b) for a, b in zip(pages, others, strict=True))


@pytest.mark.parametrize("screened", [False, True])
def test_heads(screened: bool, level: str, rng: np.random.Generator) -> None:
    for rows in (1, 7, 100, 301):
        weight = random_weight("q8_0", rows, 64, rng)
        head = pack_parts([weight], "q8_0", weight.shape, split=True) if screened else pack(weight)
        program = chooser(head, screened, rng)
        expected = one_by_one(program, (), 0, rows - 1, 12)
        assert without_times(greedy(program, Slice((), 0, [rows - 1], [0]), 12)) == expected
        assert without_times(greedy(program, Slice((), 0, [rows - 1], [0]), 1)) == expected[:1]


def test_ends(rng: np.random.Generator) -> None:
    program = chooser(pack(normal(rng, 50, 32)), False, rng)
    tokens = [one.token for one in greedy(program, Slice((), 0, [1], [0]), 30)]
    for ends in ([tokens[0]], [60, tokens[4]], [51]):
        found = greedy(program, Slice((), 0, [1], [0]), 30, ends)
        last = next((i for i, token in enumerate(tokens) if token in ends), 29)
        assert [one.token for one in found] == tokens[: last + 1]


def test_ends_where_a_text_repeats_itself(rng: np.random.Generator) -> None:
    program = chooser(pack(normal(rng, 9, 32)), False, rng)
    tokens = [one.token for one in greedy(program, Slice((), 0, [1], [0]), 30)]
    for repeat in (1, 2, 3):
        for past in ([1], [5, *tokens[: repeat + 3], 8, 1], [*range(9), 1], [0, 0, 0, 0, 1]):
            found = greedy(program, Slice((), 0, [1], [0]), 30, (), array("i", past), repeat)
            text, expected = list(past), []
            for token in tokens:
                text.append(token)
                expected.append(token)
                if text[-repeat:] in [text[i : i + repeat] for i in range(len(text) - repeat)]:
                    break
            assert [one.token for one in found] == expected
    assert len(greedy(program, Slice((), 0, [1], [0]), 30, (), array("i", tokens))) == 30


def test_the_largest_is_that_of_numpy(rng: np.random.Generator) -> None:
    """The first of equal ones, and the first NaN, after which nothing runs."""
    for rows in (5, 16, 40):
        for odd in ([], [rows - 2], [3, rows - 1]):
            weight = np.ones((rows, 4), np.float32)
            weight[2] = weight[rows - 1] = 2.0
            weight[odd] = np.nan
            program = chooser(pack(weight), False, rng)
            (row,) = program.run([Slice((), 0, [0], [0])])
            found = greedy(program, Slice((), 0, [0], [0]), 3)
            assert found[0].token == int(row.argmax())
            assert same_bits(np.array(found[0].logit, np.float32), row[found[0].token])
            assert [str(one.error) for one in found if one.error is not None] == (
                [f"the model's logits are not finite: logit nan for token {odd[0]} at position 1"] if odd else []
            )
            assert len(found) == (1 if odd else 3)


def test_what_does_not_fit_is_refused(rng: np.random.Generator) -> None:
    model = Model(1)
    pages = model.pages(64)
    for part, count, message in (
        (Slice(pages, 0, [3, 4], [0]), 2, "expected every slice to want logits of its last token"),
        (Slice(pages, 0, [3, 4, 5], [0, 2]), 1, "expected wanted positions one behind the other"),
        (Slice(pages, 0, [3], []), 1, "expected a choice for each of the 0 slices that want logits, got 1"),
        (Slice(pages, 60, [3], [0]), 5, "65 positions need more than 1 KV pages"),
        (Slice(pages, 0, [3], [0]), 0, "expected 1 to .* runs, got 0"),
        (Slice(pages, 0, [3], [0]), MAX_RUNS + 1, f"expected 1 to {MAX_RUNS} runs, got {MAX_RUNS + 1}"),
        (Slice(pages, 0, [3], [0]), 1 << 60, f"expected 1 to {MAX_RUNS} runs"),  # before memory is taken for them
        (Slice(pages, 0, [-1], [0]), 1, "token id -1"),
    ):
        with pytest.raises(ShapeError, match=message):
            greedy(model.program, part, count)
    program = Program(4, threads=1)
    x = program.embed("x", pack(normal(rng, 3, 8)), program.buffer("x", 8))
    state = program.select("select", x, program.buffer("state", 8, "outputs"))
    program.linear("head", state, [pack(normal(rng, 5, 8))], program.buffer("logits", 5, "outputs"))
    with pytest.raises(ShapeError, match="expected at most 3 logits, as many as tokens, got 5"):
        greedy(program, Slice((), 0, [0], [0]), 2)


def test_cancelled() -> None:
    model = Model(2)
    pages = model.pages(100)
    token = CancelToken()
    token.cancel()
    with token, pytest.raises(Cancelled):
        greedy(model.program, Slice(pages, 0, [3], [0]), 20)
    token = CancelToken(1e-6)
    time.sleep(0.05)  # deadlines are those of a coarse clock
    with token, pytest.raises(Cancelled):
        greedy(model.program, Slice(pages, 0, [3], [0]), 20)
    assert len(greedy(model.program, Slice(pages, 0, [3], [0]), 20)) == 20


def test_observed_runs_are_told_apart(rng: np.random.Generator) -> None:
    """Each run of a call is observed as a run of its own; tokens are the same."""
    model, other = Model(2), Model(2)
    part = Slice(model.pages(100), 40, [1], [0])
    expected = greedy(other.program, Slice(other.pages(100), 40, [1], [0]), 5)
    watcher = Watcher()
    with model.program.observe(watcher):
        found = greedy(model.program, part, 5)
    assert [(one.token, one.logit) for one in found] == [(one.token, one.logit) for one in expected]
    assert [(ran.start, list(ran.ids)) for (ran,), _ in watcher.runs] == [
        (40 + i, [token]) for i, token in enumerate([1, *(one.token for one in found[:-1])])
    ]
    end = 0
    for (_, timings), one in zip(watcher.runs, found, strict=True):
        assert [timing.operation for timing in timings] == model.program.operations
        assert end <= timings.start_ns <= timings.end_ns
        assert one.ms == pytest.approx((timings.end_ns - timings.start_ns) / 1e6)
        assert 0 < sum(timing.ms for timing in timings) <= one.ms + 1e-6
        end = timings.end_ns
    with model.program.observe(Watcher([Capture(model.program.operations[0])])):
        assert len(greedy(model.program, part, 5)) == 1  # what is captured is that of one run
