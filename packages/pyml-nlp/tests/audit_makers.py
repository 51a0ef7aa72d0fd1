"""Measurements made up from laws that the analysis has to find again."""

from __future__ import annotations

from pyml_core.limits import Limits
from pyml_nlp.audit.measurements import (
    EMBEDDING,
    FEED_FORWARD,
    HEAD,
    LINEAR,
    SQUARE,
    AuditedModel,
    Choice,
    ColdRun,
    Machine,
    Measurements,
    OperationSum,
    Span,
    Step,
    SweepPoint,
)

LENGTHS = (16, 32, 64, 128, 256, 512, 1024)
LIMITS = Limits(2, "avx2", read_gb_s=20.0, int8_gop_s=1000.0, f32_gflop_s=200.0)


def step(
    ms: float, faults: int = 0, switches: int = 0, mhz: float = 0.0, loop: float = 50.0, new_page: bool = False
) -> Step:
    """A decode step."""
    return Step(ms, faults, 0, 0, switches, mhz, loop, new_page)


def point(kind: str, length: int, speed: float = 1.0, noise: float = 0.01) -> SweepPoint:
    """Linear parts take 10 µs a token, quadratic ones 0.02 µs a pair in prefill: they meet at 1000 tokens."""
    tokens = length if kind == "prefill" else 1
    linear, square = 0.01 * tokens, 0.00001 * length * tokens

    def samples(ms: float) -> list[float]:
        return [ms * speed * (1 + noise * offset) for offset in (-1, -0.5, 0, 0.5, 1)]

    parts = {"QKV": 0.7 * linear, "RoPE": 0.05 * linear, "append": 0.05 * linear, "QK^T": 0.5 * square,
             "softmax": 0.1 * square, "A*V": 0.4 * square, "out": 0.2 * linear}  # fmt: skip
    groups = {EMBEDDING: 0.001, LINEAR: linear, SQUARE: square, FEED_FORWARD: 2 * linear, HEAD: 1.0}
    operations = [
        OperationSum("layers.*.attention.qkv", 2, 0.7 * linear, 1_000_000, 2_000_000 * tokens, True),
        OperationSum("layers.*.attention.attend", 2, square, 1_000 * length, 1_000 * length * tokens, False),
        OperationSum("head", 1, 1.0, 18_000_000, 36_000_000, True),
        OperationSum("select", 1, 0.001, 2_000, 0, False),
    ]
    wall = sum(groups.values())
    return SweepPoint(
        kind, length, samples(wall), {name: samples(ms) for name, ms in parts.items()},
        {name: samples(ms) for name, ms in groups.items()}, operations, 0.05,
    )  # fmt: skip


def measurements(
    speed: float = 1.0, noise: float = 0.01, limits: tuple[Limits, Limits] = (LIMITS, LIMITS)
) -> Measurements:
    """An audit of a model with two layers, one of them windowed; ``speed`` multiplies every time."""
    cold = [
        ColdRun(
            kind, 128, (500.0 + run) * speed, (first + 0.01 * run) * speed, [first / 2] * 3, 100, 0, 10**8, 2 * 10**8
        )
        for run in range(3)
        for kind, first in (("prefill", 10.0), ("decode", 2.0))
    ]
    return Measurements(
        version="0.1.0", date="2026-01-02T03:04:05+00:00",
        machine=Machine("A CPU <of> \"some\" | kind", 2, 8 * 10**9, list(limits), [0.1, 0.2], 0.0),
        model=AuditedModel("a-model.gguf", "auto", 20_000_000, 2, 4096, {"q8_0": 19_000_000}, [512, 0], 19_000_000,
                           "f16", 1024, 64, 512),
        threads=2, level="avx2", layers=[0, 1], reference=128, seconds=12.0, cold=cold,
        warm_prefill_ms=[5.0 * speed * (1 + noise * offset) for offset in (-1, 0, 1, 2, 0.5)],
        steps=[step(1.0 * speed * (1 + noise * (number % 3))) for number in range(30)],
        stolen_ms=0.0, full_ms=[1.0 * speed] * 5, screened_ms=[0.6 * speed] * 5,
        sweep=[point(kind, length, speed, noise) for length in LENGTHS for kind in ("prefill", "decode")],
        layer_heatmap={kind: [{"QKV": 0.1, "feed_forward.down": 0.2}, {"QKV": 0.3}] for kind in ("prefill", "decode")},
        choices=[Choice("--threads 1", 19_000_000, [0.5, 0.51, 0.52], [0.8, 0.81, 0.79])],
        timeline=[Span(0, "step", 0.0, 1000.0), Span(1, "layers.0", 0.0, 400.0), Span(3, "layers.0.x", 0.0, 90.0)],
    )  # fmt: skip
