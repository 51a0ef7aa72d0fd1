"""RoPE's frequencies and their scalings against numbers of transformers."""

from __future__ import annotations

import numpy as np
import pytest

from pyml_nn.config.gguf import with_factors
from pyml_nn.errors import ConfigError
from pyml_nn.layers.rope import FactorScaling, LinearScaling, Llama3Scaling, Rope

# transformers' LlamaRotaryEmbedding for head_dim 16, theta 500000 and the scaling of LLAMA3 below
LLAMA3 = Llama3Scaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=64)
EXPECTED = [
    1.0,
    0.079403013,
    0.00470075384,
    0.000911583134,
    0.000176776681,
    3.42810235e-05,
    6.64786967e-06,
    1.28917316e-06,
]


def test_default() -> None:
    expected = [1.0, 10_000 ** (-2 / 6), 10_000 ** (-4 / 6)]
    inv_freq = Rope(6, 10_000.0).inv_freq()
    assert inv_freq.dtype == np.float32
    np.testing.assert_allclose(inv_freq, expected, rtol=1e-7)


def test_linear_scaling_divides_positions() -> None:
    np.testing.assert_allclose(Rope(8, 100.0, LinearScaling(4.0)).inv_freq(), Rope(8, 100.0).inv_freq() / 4, rtol=1e-7)


def test_llama3_scaling_equals_transformers() -> None:
    np.testing.assert_allclose(Rope(16, 500_000.0, LLAMA3).inv_freq(), EXPECTED, rtol=5e-7)


def test_llama3_scaling_keeps_short_and_divides_long_wavelengths() -> None:
    plain, scaled = Rope(64, 500_000.0).inv_freq(), Rope(64, 500_000.0, LLAMA3).inv_freq()
    wavelength = 2 * np.pi / plain
    np.testing.assert_array_equal(scaled[wavelength < 64 / 4], plain[wavelength < 64 / 4])
    np.testing.assert_allclose(scaled[wavelength > 64], plain[wavelength > 64] / 8, rtol=1e-6)


def test_factors_of_a_gguf_file() -> None:
    rope = with_factors(Rope(4, 100.0), np.array([1.0, 8.0], np.float32))
    assert rope.scaling == FactorScaling((1.0, 8.0))
    np.testing.assert_allclose(rope.inv_freq(), [1.0, 0.1 / 8], rtol=1e-7)


@pytest.mark.parametrize("factors", [[1.0, 0.0], [1.0, -1.0], [np.nan, 1.0], [np.inf, 1.0], [1e-45, 1.0]])
def test_bad_factors_of_a_gguf_file(factors: list[float]) -> None:
    with pytest.raises(ConfigError, match=r"rope_freqs\.weight: expected finite factors of at least 0.001, found"):
        with_factors(Rope(4, 100.0), np.array(factors, np.float32))


def test_factors_and_scaling_in_one_file() -> None:
    with pytest.raises(ConfigError, match="scales the frequencies as well"):
        with_factors(Rope(4, 100.0, LinearScaling(2.0)), np.ones(2, np.float32))


def test_odd_width() -> None:
    with pytest.raises(ConfigError, match="expected an even number, found 5"):
        Rope(5, 100.0)
