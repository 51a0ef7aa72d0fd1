"""Speed with other options: fewer threads, another type of keys and values, smaller weights.

Each alternative is a second model in memory, whose runs alternate with those of the audited one, so that both see the
same machine.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from pyml_core.errors import PymlError
from pyml_nn.memory import available_memory

from .. import load
from .measurements import Choice
from .plan import DEEPEST, STEPS

if TYPE_CHECKING:
    from pyml_nn import KVCache

    from .. import LanguageModel

SMALLER = 0.97  # weights with less than this share of the bytes are an alternative
DTYPES = ("q8_0", "q4_0")
KV_DTYPES = ("int8", "f16")


class Alternative(NamedTuple):
    """Options as on the command line, and what :func:`pyml_nlp.load` calls them."""

    option: str
    changes: dict[str, Any]


def alternatives(threads: int, dtype: str, kv_dtype: str) -> list[Alternative]:
    """Return what is worth trying for a model that is used with these options.

    Args:
        threads: number of threads.
        dtype: as requested.
        kv_dtype: type of the keys and values in use.
    """
    return [
        *(Alternative(f"--threads {n}", {"threads": n}) for n in sorted({1, threads // 2} - {0, threads})),
        *(Alternative(f"--kv-dtype {name}", {"kv_dtype": name}) for name in KV_DTYPES if name != kv_dtype),
        *(Alternative(f"--dtype {name}", {"dtype": name}) for name in DTYPES if name != dtype),
    ]


def measure_choices(
    lm: LanguageModel, model: str, dtype: str, threads: int | None, ids: list[int], prompt: int, rounds: int
) -> list[Choice]:
    """Measure the alternatives to the options of a loaded model.

    An alternative is left out if the model cannot be loaded with it, or if it changes nothing: a type of weights that
    makes them no smaller.

    Args:
        lm: the model.
        model, dtype, threads: how it was loaded.
        ids: token ids, as many as a prompt and some decode steps need.
        prompt: tokens of the prefills.
        rounds: samples of each.
    """
    found = []
    for option, changes in alternatives(lm.model.program.threads, dtype, lm.kv_layout.dtype):
        options = {"dtype": dtype, "threads": threads, **changes}
        if available_memory() < lm.model.weight_bytes:
            continue
        try:
            other = load(model, **options)
        except PymlError:
            continue
        with other:
            if "dtype" in changes and other.model.weight_bytes > SMALLER * lm.model.weight_bytes:
                continue
            samples = list(_samples(lm, other, ids, prompt, rounds))
        weights = other.model.weight_bytes if "dtype" in changes else lm.model.weight_bytes
        found.append(Choice(option, weights, [one[0] for one in samples], [one[1] for one in samples]))
    return found


def _samples(
    lm: LanguageModel, other: LanguageModel, ids: list[int], prompt: int, rounds: int
) -> Iterator[tuple[float, float]]:
    """Yield how many times as fast the other model is, in prefill and in decode. The first round warms up."""
    steps = min(STEPS, len(ids) // 2)
    depth = min(len(ids) - steps, DEEPEST)
    both = [(one, one.new_cache()) for one in (lm, other)]
    for one, cache in both:
        one.forward([(cache, ids[:depth], None)])
    for turn in range(rounds + 1):
        ms: dict[int, tuple[float, float]] = {}
        for which in (0, 1) if turn % 2 else (1, 0):
            one, cache = both[which]
            ms[which] = _prefill_ms(one, ids[:prompt]), _decode_ms(one, cache, ids[depth : depth + steps], depth)
        if turn:
            yield ms[0][0] / ms[1][0], ms[0][1] / ms[1][1]


def _prefill_ms(lm: LanguageModel, ids: list[int]) -> float:
    cache = lm.new_cache()
    start = time.perf_counter()
    lm.forward([(cache, ids, None)])
    return (time.perf_counter() - start) * 1e3


def _decode_ms(lm: LanguageModel, cache: KVCache, ids: list[int], depth: int) -> float:
    """The median step: one that another process disturbed does not count."""
    cache.trim(depth)
    times = []
    for token in ids:
        start = time.perf_counter()
        lm.forward([(cache, [token], None)])
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)
