"""A draw from the softmax whose noise has no state.

The draw adds Gumbel noise to each candidate and takes the largest (Gumbel-max: Gumbel 1954; Maddison et al. 2014, arXiv
1411.0030), which is a draw from the softmax. The noise of a token is a hash of (seed, sequence, position, token id),
not the next number of a shared stream, so that a text depends neither on other texts nor on earlier computations.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .arrays import F32Array, F64Array, IdArray
from .elementary import log64

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def noise_key(seed: int, sequence: int, position: int) -> int:
    """Return the 64-bit state that determines the noise of every token at a position of a sequence."""
    state = 0
    for part in (seed, sequence, position):
        state = _mix((state ^ part & _MASK) + _GOLDEN & _MASK)
    return state


def hashes(key: int, ids: IdArray) -> npt.NDArray[np.uint32]:
    """Return 32 bits for each token: the upper half of SplitMix64's output number ``id`` from the state ``key``.

    Source: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators" (the constants of
    java.util.SplittableRandom).
    """
    z = ids.astype(np.uint64)
    z *= np.uint64(_GOLDEN)
    z += np.uint64(key + _GOLDEN & _MASK)
    z ^= z >> np.uint64(30)
    z *= np.uint64(_MIX[0])
    z ^= z >> np.uint64(27)
    z *= np.uint64(_MIX[1])
    z ^= z >> np.uint64(31)
    z >>= np.uint64(32)
    return z.astype(np.uint32)


def uniform(key: int, ids: IdArray) -> F64Array:
    """Return a number in (0, 1) for each token: ``(hash + 1/2) / 2**32``, float64."""
    return (hashes(key, ids).astype(np.float64) + 0.5) * 2.0**-32


def gumbel(key: int, ids: IdArray) -> F64Array:
    """Return standard Gumbel noise for each token, ``-log(-log(uniform))``, float64, between -3.1 and 22.9."""
    return -log64(-log64(uniform(key, ids)))


def draw(logits: F32Array, temperature: float, key: int, ids: IdArray | None = None) -> int:
    """Draw from the softmax: return the first index of the largest ``logits / temperature + gumbel``.

    Args:
        logits: float32 (C,).
        temperature: divisor of the logits.
        key: state of the noise, see :func:`noise_key`.
        ids: token ids of the logits (C,); None: 0, 1, 2, ...
    """
    noise = gumbel(key, np.arange(logits.size) if ids is None else ids)
    return int((logits.astype(np.float64) / temperature + noise).argmax())


def _mix(z: int) -> int:
    """SplitMix64's output function, on a Python integer."""
    z = (z ^ z >> 30) * _MIX[0] & _MASK
    z = (z ^ z >> 27) * _MIX[1] & _MASK
    return z ^ z >> 31
