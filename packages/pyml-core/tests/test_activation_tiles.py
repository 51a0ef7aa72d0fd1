"""Linear layers with a fused activation: results are bit-identical to the separate operations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from core_cases import F32Array, assert_near, normal, random_weight, same_bits, timed_run

from pyml_core import Program, Slice, pack, reference
from pyml_core.timing import Capture

INPUTS = 256


def feed_forward(
    activation: str, gated: bool, types: Sequence[str], width: int, tokens: int, threads: int, bias: bool = False
) -> Program:
    """Return a program with random weights: up (or gate and up), activation, down."""
    rng = np.random.default_rng(width)
    program = Program(tokens, threads=threads)
    table = normal(rng, tokens, INPUTS)
    table[0, 5] = np.inf  # must affect its row only
    x = program.embed("x", pack(table), program.buffer("x", INPUTS))
    matrices = [pack(random_weight(name, width, INPUTS, rng)) for name in types]
    total = width * len(matrices)
    up = program.linear("up", x, matrices, program.buffer("up", total), normal(rng, total) if bias else None)
    if gated:
        hidden = program.gated("activation", up, activation, program.buffer("hidden", width))
    else:
        hidden = program.activate("activation", up, activation, program.buffer("hidden", total))
    down = pack(random_weight("q8_0", 48, hidden.width, rng))
    program.linear("down", hidden, [down], program.buffer("out", 48))
    return program


CASES = [
    ("gelu_tanh", True, ("q8_0", "q8_0"), 96, False),
    ("silu", True, ("q5_0", "q4_1"), 64, False),
    ("gelu_erf", True, ("f16", "q8_0"), 32, True),
    ("gelu_tanh", False, ("q4_K",), 160, True),
    ("silu", False, ("q8_0", "q6_K", "q4_0"), 32, False),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join([case[0], *case[2]]))
@pytest.mark.parametrize("tokens", [17, 70, 300])
def test_fused_as_separate(case: tuple[str, bool, tuple[str, ...], int, bool], tokens: int, level: str) -> None:
    """All rows at once, with several numbers of threads; with captures, which prevent fusion; and one row at a time."""
    activation, gated, types, width, bias = case
    ids = np.arange(tokens, dtype=np.int32)
    expected: F32Array | None = None
    for threads in (1, 3):
        program = feed_forward(activation, gated, types, width, tokens, threads, bias)
        together = program.run([Slice((), 0, ids, range(tokens))])
        if expected is None:
            expected = together
        assert same_bits(together, expected)
        for wanted in (["up", "activation"], ["up"], ["activation"]):
            captures = [Capture(op) for op in program.operations if op.name in wanted]
            apart, _ = timed_run(program, [Slice((), 0, ids, range(tokens))], captures)
            assert same_bits(apart, expected)
            if wanted == ["up", "activation"]:
                activated = captures[1].arrays[0]
            elif wanted == ["activation"]:
                assert same_bits(captures[0].arrays[0], activated)
        for row in (0, 1, tokens - 1):
            assert same_bits(program.run([Slice((), 0, [row], [0])]), expected[row : row + 1])
        assert np.isnan(expected[0]).all()
        assert np.isfinite(expected[1:]).all()


def test_near_the_reference(level: str) -> None:
    for activation, gated, types, width, bias in CASES:
        program = feed_forward(activation, gated, types, width, 40, 2, bias)
        batch = [Slice((), 0, np.arange(1, 40, dtype=np.int32), range(39))]
        assert_near(program.run(batch), reference.run(program, batch), 1e-6)


def test_rows_with_a_second_reader_are_written() -> None:
    """Another operation reads the activation's input too: there is no fusion."""
    rng = np.random.default_rng(1)
    program = Program(40, threads=2)
    x = program.embed("x", pack(normal(rng, 40, 64)), program.buffer("x", 64))
    up = program.linear("up", x, [pack(random_weight("q8_0", 64, 64, rng))], program.buffer("up", 64))
    hidden = program.activate("activation", up, "silu", program.buffer("hidden", 64))
    out = program.linear("down", hidden, [pack(random_weight("q8_0", 64, 64, rng))], program.buffer("out", 64))
    program.rms_norm("again", up, np.ones(64, np.float32), 1e-6, out, add_to=out)
    batch = [Slice((), 0, np.arange(40, dtype=np.int32))]
    assert_near(program.run(batch), reference.run(program, batch), 1e-6)


@pytest.mark.parametrize("threads", [1, 3])
def test_each_has_a_time_of_its_own(threads: int, level: str) -> None:
    """A fused activation has its own time, after the layer's; spans are within their operations."""
    program = feed_forward("silu", True, ("q8_0", "q8_0"), 96, 300, threads)
    for _ in range(20):  # on a busy machine, a thread may be preempted in the activation
        _, timings = timed_run(program, [Slice((), 0, np.arange(300, dtype=np.int32))])
        times = {timing.operation.name: timing for timing in timings}
        up, activation, down = times["up"], times["activation"], times["down"]
        if 0 < activation.ms < up.ms:
            break
    assert 0 < activation.ms < up.ms
    end = activation.start_ns + activation.ms * 1e6
    assert up.start_ns + up.ms * 1e6 <= activation.start_ns + 1
    assert end <= down.start_ns + 1
    assert sum(span.busy_ms for span in activation.thread_spans) > 0
    for timing in (up, activation):
        assert 0 <= timing.busy <= 1
        for span in timing.thread_spans:
            assert span.start_ns <= span.end_ns
            assert span.busy_ms * 1e6 <= span.end_ns - span.start_ns + 1
