"""The audit's sentences on made-up measurements."""

from __future__ import annotations

from dataclasses import replace

import pytest
from audit_makers import LIMITS, measurements, step

from pyml_core.limits import Limits
from pyml_nlp.audit.analyse import analyse
from pyml_nlp.audit.choices import alternatives
from pyml_nlp.audit.conclusions import NOTHING, conclusions
from pyml_nlp.audit.measurements import Choice, Measurements, OperationSum


def found(m: Measurements) -> dict[str, str]:
    """Titles and recommendations."""
    return {conclusion.title: conclusion.recommendation for conclusion in conclusions(m, analyse(m))}


def test_sentences_follow_from_the_numbers() -> None:
    m = measurements()
    titles = found(m)
    assert titles["Decode is limited by memory bandwidth"].startswith(NOTHING)  # 19.1 MB in 1.01 ms of 20 GB/s
    # 1.01 ms a step and 5.025 ms for 128 tokens
    assert titles["A prompt token is 26 times cheaper than a decoded one"] == NOTHING
    assert titles["Prefill stays below its roofs"].startswith("Look at layers.*.attention.")
    assert titles["Decode steps are steady"] == NOTHING
    assert titles["The KV cache is small"] == NOTHING
    assert "about 1000 tokens (measured)" in "".join(conclusion.text for conclusion in conclusions(m, analyse(m)))
    assert "The machine itself was unsteady" not in titles


def test_a_slow_decode_names_the_operation() -> None:
    slow = [replace(one, ms=3.0) for one in measurements().steps]
    titles = found(replace(measurements(), steps=slow))
    assert titles["Decode does not reach the memory's bandwidth"].startswith("Look at ")
    fast = [replace(one, ms=0.5) for one in measurements().steps]
    assert "Decode runs out of the caches" in found(replace(measurements(), steps=fast))
    disturbed = measurements(limits=(LIMITS, Limits(2, "avx2", 12.0, 1000.0, 200.0)))
    in_order = list(found(replace(disturbed, steps=fast)))
    assert in_order[0] == "The machine itself was unsteady"
    assert in_order[2] == "Decode reads faster than the measured limit of the machine"


def test_other_sentences() -> None:
    m = measurements()
    assert "A prompt token is more expensive than a decoded one" in found(replace(m, warm_prefill_ms=[200.0] * 5))
    assert "Prefill gains little from its many tokens" in found(replace(m, warm_prefill_ms=[100.0] * 5))
    assert "Cold runs cost more than warm ones" in found(m)
    noisy = [*m.steps[:20], *[step(3.0, switches=2)] * 10]
    assert found(replace(m, steps=noisy))["Decode steps are unsteady"].startswith("Other processes")
    realtime = replace(m, steps=noisy, machine=replace(m.machine, suspended_ms=50.0))
    assert found(realtime)["Decode steps are unsteady"].startswith("Linux stops a process at a real-time priority")
    assert "A full KV cache is larger than the weights" in found(replace(m, model=replace(m.model, context=1 << 20)))
    assert found(m)["Screening the head pays"].startswith(NOTHING)
    assert "Screening the head does not pay" in found(replace(m, screened_ms=[1.0] * 5))
    assert found(replace(m, screened_ms=[0.95] * 5))["Screening the head gains little"] == NOTHING
    assert not any("head" in title for title in found(replace(m, full_ms=[], screened_ms=[])))
    sweep = [replace(point, waiting=0.4) for point in m.sweep]
    assert "Threads wait for each other" in found(replace(m, sweep=sweep))
    half = Limits(2, "avx2", 10.0, 500.0, 100.0)
    assert "The machine itself was unsteady" in found(measurements(limits=(LIMITS, half)))


def test_options_that_pay() -> None:
    m = measurements()
    assert found(m)["No other option is faster"] == "Keep the options of this audit."
    noise = Choice("--kv-dtype f16", 1, [0.9, 1.3, 1.4, 0.8], [1.0, 1.01, 0.99, 1.02])
    assert "No other option is faster" in found(replace(m, choices=[noise]))
    smaller = Choice("--dtype q4_0", 1, [1.01, 1.02, 1.0], [1.5, 1.6, 1.7])
    fewer = Choice("--threads 4", 1, [0.7, 0.7, 0.7], [1.2, 1.2, 1.3])
    advice = found(replace(m, choices=[noise, smaller, fewer]))["Other options are faster"]
    assert advice == (
        "Use --dtype q4_0 (decode 1.60x). Depends on the use: --threads 4 (prefill 0.70x and decode 1.20x). "
        "Another type changes the numbers: check its quality with pyml eval."
    )
    threads = found(replace(m, choices=[fewer]))["Other options are faster"]
    assert threads == "Depends on the use: --threads 4 (prefill 0.70x and decode 1.20x)."
    assert not any("option" in title for title in found(replace(m, choices=[])))


def test_alternatives_to_the_options_in_use() -> None:
    assert [one.option for one in alternatives(8, "auto", "int8")] == [
        "--threads 1", "--threads 4", "--kv-dtype f16", "--dtype q8_0", "--dtype q4_0",
    ]  # fmt: skip
    assert [one.option for one in alternatives(1, "q4_0", "f32")] == [
        "--kv-dtype int8", "--kv-dtype f16", "--dtype q8_0",
    ]  # fmt: skip
    for option, changes in alternatives(8, "auto", "f16"):
        ((name, value),) = changes.items()
        assert option == f"--{name.replace('_', '-')} {value}"


def test_a_roof_that_was_measured_too_low() -> None:
    """Arithmetic is never above its peak: no conclusion rests on such a share."""
    m = measurements()
    above = OperationSum("layers.*.feed_forward.down", 1, 1.0, 1000, 1_400_000_000, True)
    cached = OperationSum("norm", 1, 0.001, 40_000, 40_000, False)  # 40 GB/s: memory is no limit in the caches
    sweep = [replace(p, operations=[*p.operations, above, cached]) if p.kind == "prefill" else p for p in m.sweep]
    disturbed = replace(m, sweep=sweep)
    titles = found(disturbed)
    assert next(iter(titles)) == "The peak of the arithmetic was measured too low"
    assert "Prefill cannot be compared with its roofs" in titles
    texts = [one.text for one in conclusions(disturbed, analyse(disturbed))]
    assert texts[0].startswith("layers.*.feed_forward.down runs at 140 % of its roof")
    assert not any("int8 peak" in text for text in texts)
    only_cached = [replace(p, operations=[*p.operations, cached]) if p.kind == "prefill" else p for p in m.sweep]
    assert not any("too low" in title for title in found(replace(m, sweep=only_cached)))


def test_a_prefill_near_its_roofs() -> None:
    """The limit of most of its time is the limit of a prefill."""
    m = measurements()
    at_roof = [OperationSum("a", 1, 1.0, 1000, 900_000_000, True), OperationSum("b", 1, 0.5, 9_000_000, 0, False)]
    sweep = [replace(p, operations=at_roof) if p.kind == "prefill" else p for p in m.sweep]
    a = analyse(replace(m, sweep=sweep))
    assert a.roofs["prefill"].share == pytest.approx(0.9)
    assert a.roofs["prefill"].bound == "arithmetic"
    assert found(replace(m, sweep=sweep))["Prefill is limited by arithmetic"].startswith(NOTHING)
    streaming = [replace(p, operations=at_roof[1:]) if p.kind == "prefill" else p for p in m.sweep]
    assert "Prefill is limited by memory bandwidth" in found(replace(m, sweep=streaming))
