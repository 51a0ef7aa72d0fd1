"""Values of sampling, and logits, that are refused."""

from __future__ import annotations

import numpy as np
import pytest

from pyml_core.errors import PymlError
from pyml_nlp.options import SamplingOptions
from pyml_nlp.sampling import sample


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -1.0}, "temperature must be a finite number >= 0.0, got -1"),
        ({"temperature": float("nan")}, "temperature must be a finite number >= 0.0, got nan"),
        ({"temperature": float("inf")}, "temperature must be a finite number >= 0.0, got inf"),
        ({"top_k": -2}, r"top_k must be > 0, got -2 \(0 and -1 are off\)"),
        ({"top_p": 0.0}, r"top_p must be in \(0.0, 1.0\], got 0 \(1 is off\)"),
        ({"top_p": 1.5}, r"top_p must be in \(0.0, 1.0\], got 1.5"),
        ({"repetition_penalty": 0.0}, r"repetition_penalty must be a finite number > 0.0, got 0 \(1 is off\)"),
        ({"seed": -2}, r"seed must be in 0 .. 2\*\*64 - 1, got -2 \(-1 is random\)"),
        ({"seed": 2**64}, "seed must be in"),
        ({"min_p": -0.1}, r"min_p must be in \[0.0, 1.0\], got -0.1"),
        ({"min_p": float("nan")}, r"min_p must be in \[0.0, 1.0\], got nan"),
        ({"typical_p": 0.0}, r"typical_p must be in \(0.0, 1.0\], got 0"),
        ({"frequency_penalty": float("inf")}, "frequency_penalty must be a finite number, got inf"),
        ({"presence_penalty": float("nan")}, "presence_penalty must be a finite number, got nan"),
        ({"logit_bias": {-1: 0.0}}, "logit_bias must be token ids, got -1"),
        ({"logit_bias": {3: float("inf")}}, "logit_bias must be a number below infinity, got inf for token 3"),
        ({"order": ["top_p", "best"]}, "order must be one of logit_bias, .*, got 'best'"),
        ({"order": ["top_p", "top_p"]}, "order must name each rule once, got 'top_p, top_p'"),
        ({"temperature": 0.5, "top_k": 3, "order": ["top_k"]}, "order must name all rules in use, temperature missing"),
    ],
)
def test_ranges(values: dict[str, object], message: str) -> None:
    with pytest.raises(PymlError, match=message):
        SamplingOptions(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite(temperature: float, bad: float) -> None:
    logits = np.array([1.0, bad, 0.0], np.float32)
    with pytest.raises(PymlError, match=r"not finite: logit .* for token 1 at position 9"):
        sample(logits, SamplingOptions(temperature, seed=0), 0, 9)


def test_minus_infinity_is_never_drawn() -> None:
    logits = np.array([-np.inf, 0.0, -np.inf, 0.0], np.float32)
    rules = (
        SamplingOptions(1.0, seed=0),
        SamplingOptions(1.0, top_k=3, seed=0),
        SamplingOptions(1.0, top_p=0.9, seed=0),
    )
    for chosen in rules:
        assert {sample(logits, chosen, 0, position) for position in range(50)} == {1, 3}
