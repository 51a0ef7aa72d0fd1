"""The noise of a draw: its key and its distribution."""

from __future__ import annotations

import numpy as np
import pytest

from pyml_core.sampling import noise


def test_uniform_is_splitmix64() -> None:
    # The first outputs of java.util.SplittableRandom(0) and (42), upper halves.
    for seed, outputs in {
        0: [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F],
        42: [0xBDD732262FEB6E95, 0x28EFE333B266F103, 0x47526757130F9F52],
    }.items():
        expected = [((value >> 32) + 0.5) / 2**32 for value in outputs]
        assert noise.uniform(seed, np.arange(3)).tolist() == expected


def test_noise_is_keyed_by_each_part() -> None:
    ids = np.arange(1000)
    keys = {noise.noise_key(seed, sequence, position)
            for seed in (0, 1, 2**64 - 1) for sequence in range(4) for position in range(4)}  # fmt: skip
    assert len(keys) == 48
    noises = [noise.uniform(key, ids) for key in keys]
    correlations = np.abs(np.corrcoef(noises) - np.eye(len(noises)))
    assert correlations.max() < 0.2


def test_noise_of_a_token_does_not_depend_on_the_others() -> None:
    whole = noise.gumbel(7, np.arange(100_000))
    assert np.array_equal(noise.gumbel(7, np.array([5, 99_999])), whole[[5, 99_999]])


def test_gumbel_bounds() -> None:
    values = noise.gumbel(1, np.arange(1 << 20))
    assert values.min() > -3.2
    assert values.max() < 22.9
    assert np.mean(values) == pytest.approx(0.5772, abs=0.01)  # Euler's constant
    assert np.var(values) == pytest.approx(np.pi**2 / 6, abs=0.02)
