"""A function of the user's that changes logits before a token is chosen.

Letters: V = vocabulary size.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pyml_core.errors import PymlError, one_line, quoted
from pyml_core.sampled import SampledToken

if TYPE_CHECKING:
    from ..options.keywords import LogitsProcessor
    from .completion import Completion

F32Array = npt.NDArray[np.float32]


def processed(completion: Completion, row: F32Array) -> SampledToken:
    """The next token of a text, from a row of logits that its function has changed, if it has one.

    Errors are those of the token. Unlike a choice in native code it is timed here, as is the function.
    """
    start = time.perf_counter()
    processor = completion.options.logits_processor
    try:
        if processor is not None:
            row = _changed(processor, completion.ids, row)
        found = completion.sampler.choose(row, completion.position)
        completion.sampler.add(found.token)
        if completion.matcher is not None:
            completion.follow(found.token)
    except PymlError as error:
        return SampledToken(-1, float("nan"), error=error)
    return found._replace(choosing_ms=(time.perf_counter() - start) * 1e3)


def _changed(processor: LogitsProcessor, ids: list[int], row: F32Array) -> F32Array:
    """The logits that the function returns.

    Raises:
        PymlError: the function has raised an exception, or returned something other than V numbers.
    """
    try:
        changed: Any = processor(ids, row)
    except Exception as error:
        raise PymlError(f"logits_processor: {type(error).__name__}: {one_line(str(error), 200)}") from error
    if not isinstance(changed, np.ndarray) or changed.dtype.kind not in "fiu" or changed.shape != row.shape:
        found = f"{changed.dtype} {changed.shape}" if isinstance(changed, np.ndarray) else quoted(changed)
        raise PymlError(f"logits_processor: expected an array of {len(row)} numbers, got {found}")
    with np.errstate(over="ignore"):  # beyond float32 is infinite
        result: F32Array = np.ascontiguousarray(changed, np.float32)
    largest = result.max()
    if not np.isfinite(largest):  # NaN is larger than every number here
        reason = "no token is left" if largest == -np.inf else f"expected logits below infinity, found {largest}"
        raise PymlError(f"logits_processor: {reason}")
    return result
