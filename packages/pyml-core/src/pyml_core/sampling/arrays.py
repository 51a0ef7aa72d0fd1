"""Array types that the rules share, and the weights of tokens: probabilities as integers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

F32Array = npt.NDArray[np.float32]
F64Array = npt.NDArray[np.float64]
I64Array = npt.NDArray[np.int64]
IdArray = npt.NDArray[np.int64]

PIECE = 16384
"""Number of elements processed at a time, so that temporaries stay in the cache."""

MAX_LOGITS = (1 << 19) - 1
"""Maximum number of logits of a row, so that sums of weights fit in 63 bits."""

WEIGHT_BITS = 44
"""The weight of the most probable token is 2 to this power."""

NO_WEIGHT = -40.0
"""Differences of logits are clamped to this; it has no weight."""

F32_MAX = float(np.finfo(np.float32).max)
F32_TINY = float(np.finfo(np.float32).tiny)
"""The largest float32, and the smallest one that is not subnormal."""
