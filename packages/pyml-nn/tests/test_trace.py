"""Traces: recorded events, scopes of traces, and the lines of the log. Times are given, not measured."""

from __future__ import annotations

import asyncio
import re
import threading
from typing import Any

import numpy as np
import pytest
from nn_models import CONFIGS, GEMMA3, GPT2, LLAMA, make

import pyml_core.program
from pyml_core import Top
from pyml_core.operation_kind import RunSize
from pyml_core.ops import OPERATIONS
from pyml_core.timing import OpTiming
from pyml_nn.trace.lines import ATTENTION_PHASES, attention_lines, forward_lines, matmul_lines

PHASES = {
    "prepare_qkv": {"QKnorm": 0.25, "RoPE": 0.5, "append": 0.25},
    "attention": {"QK^T": 1.5, "softmax": 0.5, "A*V": 2.0},
}
MS = {"prepare_qkv": 1.0, "attention": 4.0}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every operation takes 2 ms (fused ones as above) and follows the previous one without a pause."""

    class Given(list[OpTiming]):
        start_ns, end_ns = 1_000_000_000, 2_000_000_000

        def __init__(self, operations: Any, kv: Any, slices: Any, *_: Any) -> None:
            self.tokens = sum(len(part.ids) for part in slices)
            self.outputs = sum(len(part.outputs) for part in slices)
            now = self.start_ns
            for operation in operations:
                ms = MS.get(operation.kind, 2.0)
                self.append(OpTiming(operation, now, ms, PHASES.get(operation.kind, {}), 4_000_000, 6_000_000, 1.0))
                now += int(ms * 1e6)

        def shape(self, operation: Any) -> str:
            return OPERATIONS[operation.kind].shape(operation, RunSize(self.tokens, self.outputs))

    monkeypatch.setattr(pyml_core.program, "Timings", Given)


def traced(model: Any) -> Any:
    """A prefill of seven tokens and a decode step."""
    cache = model.new_cache()
    with model.trace() as trace:
        model.forward([(cache, [1, 2, 3, 4, 5, 6, 7], None)])
        model.forward([(cache, [8], None)])
    model.forward([(cache, [9], None)])  # outside of the trace
    return trace


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(
    ("values", "line"),
    [
        (
            GEMMA3,
            "[attn] layer={} QKV=2.250ms QKnorm=0.250ms RoPE=0.500ms "
            "QK^T=1.500ms softmax=0.500ms A*V=2.000ms out=2.000ms",
        ),
        (LLAMA, "[attn] layer={} QKV=2.250ms RoPE=0.500ms QK^T=1.500ms softmax=0.500ms A*V=2.000ms out=2.000ms"),
        (GPT2, "[attn] layer={} QKV=2.250ms QK^T=1.500ms softmax=0.500ms A*V=2.000ms out=2.000ms"),
    ],
    ids=["gemma3", "llama", "gpt2"],
)
def test_attention_lines(values: dict[str, Any], line: str) -> None:
    model = make(values)
    lines = attention_lines(traced(model).events)
    assert lines == 2 * [line.format(layer) for layer in range(model.config.n_layers)]


def test_the_line_adds_up_to_the_event_of_the_layer(clock: None) -> None:
    events = traced(make(GEMMA3)).events
    for layer in range(3):
        (event, _) = [event for event in events if event.name == f"layers.{layer}.attention"]
        line = attention_lines([event for event in events if event.step == 0])[layer]
        assert sum(float(ms) for ms in re.findall(r"=([0-9.]+)ms", line)) == pytest.approx(event.ms)
        assert event.ms == pytest.approx(2 + 1 + 4 + 2)


@pytest.mark.usefixtures("clock")
def test_chunks_of_one_step_are_one_line() -> None:
    model = make(GPT2, max_tokens=3)
    (first, *_) = attention_lines(traced(model).events)
    assert first.startswith("[attn] layer=0 QKV=6.750ms QK^T=4.500ms ")  # three runs


@pytest.mark.usefixtures("clock")
def test_events() -> None:
    model = make(GEMMA3)
    events = traced(model).events
    assert [event.step for event in events] == sorted(event.step for event in events)
    first = {event.name: event for event in events if event.step == 0}
    assert {event.kind for event in events if event.step == 0} == {"prefill"}
    assert {(event.kind, event.tokens) for event in events if event.step == 1} == {("decode", 1)}
    assert {operation.name for operation in model.program.operations} <= set(first)
    assert {event.phase for event in events} == {"", "append", *ATTENTION_PHASES}
    qkv = first["layers.2.attention.qkv"]
    assert (qkv.layer, qkv.phase, qkv.tokens, qkv.bytes, qkv.flops) == (2, "QKV", 7, 4_000_000, 6_000_000)
    assert qkv.shape == "[7,36]x[84,36] f32"
    assert first["head"].shape == "[1,36]x[61,36] f32"
    softmax = first["layers.2.attention.attend.softmax"]
    assert (softmax.phase, softmax.ms, softmax.bytes, softmax.shape) == ("softmax", 0.5, 0, "")
    assert first["layers.2.feed_forward.gate_up"].phase == ""
    assert (first["embedding"].layer, first["rope.local"].layer, first["forward"].layer) == (None, None, None)
    assert first["layers.0.attention"].bytes == 4 * 4_000_000


@pytest.mark.usefixtures("clock")
def test_forward_and_matmul_lines() -> None:
    events = traced(make(LLAMA)).events
    pattern = (
        r"\[perf\] model\.forward embedding=4\.000ms layers=38\.000ms norm=4\.000ms projection=2\.000ms "
        r"total=\d+\.\d\d\dms"
    )
    lines = forward_lines(events)
    assert len(lines) == 2
    assert all(re.fullmatch(pattern, line) for line in lines)
    lines = matmul_lines(events)
    assert len(lines) == 2 * (2 * 4 + 1)
    assert lines[2] == "[perf] matmul layers.0.feed_forward.gate_up [7,36]x[100,36] f32 2.000ms (2.0 GB/s, 3.0 GFLOP/s)"


@pytest.mark.parametrize("name", CONFIGS)
def test_a_real_trace_changes_nothing_and_names_everything(name: str) -> None:
    model = make(CONFIGS[name])
    ids = list(range(60))
    (expected,) = model.forward([(model.new_cache(), ids, range(60))])
    with model.trace() as trace:
        (found,) = model.forward([(model.new_cache(), ids, range(60))])
    np.testing.assert_array_equal(found, expected)
    events = {event.name: event for event in trace.events}
    assert {operation.name for operation in model.program.operations} <= set(events)
    assert all(event.ms >= 0 for event in trace.events)
    for layer in range(model.config.n_layers):
        operations = [event for event in trace.events if re.fullmatch(rf"layers\.{layer}\.attention\.\w+", event.name)]
        assert events[f"layers.{layer}.attention"].ms <= events["forward"].ms
        assert sum(event.ms for event in operations) <= events["forward"].ms
    assert len(attention_lines(trace.events)) == model.config.n_layers


@pytest.mark.parametrize("name", CONFIGS)
def test_lines_without_events_are_those_made_of_events(name: str) -> None:
    model = make(CONFIGS[name], max_tokens=16)
    cache = model.new_cache()
    with model.trace() as trace:
        model.forward([(cache, list(range(40)), None)])  # in several runs
        model.forward([(cache, [8], None)])
        model.forward([(cache, [9], None)], Top(1))
    lines = trace.attention_lines()
    assert len(lines) == 3 * model.config.n_layers
    for found, expected in zip(lines, attention_lines(trace.events), strict=True):
        assert re.sub(r"[0-9.]+ms", "", found) == re.sub(r"[0-9.]+ms", "", expected)
        times = [[float(ms) for ms in re.findall(r"=([0-9.]+)ms", line)] for line in (found, expected)]
        assert times[0] == pytest.approx(times[1], abs=0.0011)  # the order of additions


# ---- scope


@pytest.mark.usefixtures("clock")
def test_traces_nest_and_end() -> None:
    model, other = make(GPT2), make(GPT2)
    with model.trace() as outer:
        model.forward([(model.new_cache(), [1], None)])
        with model.trace() as inner, other.trace() as foreign:
            model.forward([(model.new_cache(), [1], None)])
        model.forward([(model.new_cache(), [1], None)])
    assert [max(event.step for event in trace.events) for trace in (outer, inner)] == [2, 0]
    assert foreign.events == []


@pytest.mark.usefixtures("clock")
def test_events_can_be_read_while_a_trace_goes_on() -> None:
    model, counts = make(GPT2), []
    with model.trace() as trace:
        for _ in range(3):
            model.forward([(model.new_cache(), [1], None)])
            counts.append(len(trace.events))
    assert counts == [counts[0], 2 * counts[0], 3 * counts[0]]


@pytest.mark.usefixtures("clock")
def test_other_threads_are_not_seen() -> None:
    model = make(GPT2)
    with model.trace() as trace:
        thread = threading.Thread(target=lambda: model.forward([(model.new_cache(), [1], None)]))
        thread.start()
        thread.join()
        assert trace.events == []
        asyncio.run(asyncio.to_thread(model.forward, [(model.new_cache(), [1], None)]))
    assert len(attention_lines(trace.events)) == 2


@pytest.mark.usefixtures("clock")
def test_a_failed_call_leaves_no_events() -> None:
    model = make(GPT2)
    with pytest.raises(RuntimeError), model.trace() as trace:
        raise RuntimeError
    with model.trace() as again:
        pass
    assert trace.events == again.events == []
    model.forward([(model.new_cache(), [1], None)])
    assert trace.events == []
