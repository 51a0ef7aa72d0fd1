"""Comparing two audits, on made-up measurements."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from audit_makers import LIMITS, measurements

from pyml_core.limits import Limits
from pyml_nlp.audit import compare
from pyml_nlp.audit.measurements import Measurements


def verdicts(a: Measurements, b: Measurements) -> set[str]:
    return {change.verdict for change in compare.compare(a, b)}


def test_no_claim_inside_the_noise() -> None:
    assert verdicts(measurements(), measurements()) == {"within the noise"}
    assert verdicts(measurements(), measurements(1.01)) == {"within the noise"}
    assert verdicts(measurements(noise=0.3), measurements(1.1, noise=0.3)) <= {"within the noise", "slower"}
    wide = {
        change.name: change.verdict for change in compare.compare(measurements(noise=0.3), measurements(1.1, noise=0.3))
    }
    assert wide["prefill of 128"] == "within the noise"


def test_changes_beyond_the_noise() -> None:
    changes = compare.compare(measurements(), measurements(0.8))
    assert {change.verdict for change in changes} == {"faster"}
    assert changes[0].relative == pytest.approx(-0.2)
    assert verdicts(measurements(), measurements(1.3)) == {"slower"}


def test_a_machine_that_moved_explains_as_much() -> None:
    """Memory that has become slower explains slower decoding, not a slower prefill."""
    slower = Limits(2, "avx2", 14.0, 1000.0, 200.0)
    a, b = measurements(), measurements(1.25, limits=(slower, slower))
    assert compare.floor_of(a, b, compare.MEMORY) == pytest.approx(0.3)
    assert compare.floor_of(a, b, compare.ARITHMETIC) == compare.FLOOR
    changes = {change.name: change.verdict for change in compare.compare(a, b)}
    assert {changes[name] for name in changes if "decode" in name or "head" in name} == {"within the noise"}
    assert changes["warm prefill of 128"] == changes["prefill of 512: attention's QKV"] == "slower"
    text = compare.text(a, b)
    assert "changes below 30 % in quantities bounded by memory (decoding, loading, the head) and 2 % in others" in text
    unsteady = measurements(limits=(LIMITS, slower))
    assert compare.floor_of(unsteady, unsteady, compare.MEMORY) == pytest.approx(0.3)


def test_too_few_samples() -> None:
    a = replace(measurements(), warm_prefill_ms=[1.0, 1.0])
    changes = {change.name: change.verdict for change in compare.compare(a, measurements())}
    assert changes["warm prefill of 128"] == "too few samples"


def test_the_comparison_as_text() -> None:
    text = compare.text(measurements(), replace(measurements(0.5), threads=1))
    assert "Different threads: 2, then 1." in text
    assert re.search(r"\| load \| 501\.000 ± [\d.]+ \| 250\.500 ± [\d.]+ \| -50\.0 % \| faster \|", text)
