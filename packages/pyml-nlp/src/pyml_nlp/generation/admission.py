"""What a text may be before it begins: tokens that the model has, room in its context and in memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pyml_core.errors import OutOfMemoryError, PymlError, quoted
from pyml_nn import ContextOverflowError, KVCache

from .. import memory
from ..engine import Engine
from ..errors import ArgumentError
from ..options import SHIFT
from ..values import check_ids
from .completion import Completion
from .request import Request


def check_request(engine: Engine, request: Request, cache: Any) -> int:
    """Most positions that the prompt and its text may take together, after what a cache (or None) holds.

    Raises:
        ContextOverflowError: the prompt alone takes more, and the context is not shifted.
        ArgumentError: a token that the model does not have, or something else than a cache.
        ShapeError: a cache of another origin.
        PymlError: a context shift would keep more than half of the context.
    """
    if cache is not None and not isinstance(cache, KVCache):
        raise ArgumentError(f"must be a KVCache (lm.new_cache() makes one), got {quoted(cache)}", "cache")
    if cache is not None:
        engine.model.cache_origin.check(cache.origin, "cache")
    check_ids("prompt", request.prompt, engine.vocab_size)
    check_ids("stop_ids", request.options.stop_ids, engine.vocab_size)
    check_ids("logit_bias", request.options.sampling.logit_bias or (), engine.vocab_size)
    prompt, held = request.prompt, 0 if cache is None else cache.length
    limit = engine.context_length if cache is None else min(cache.max_length, engine.context_length)
    if request.options.overflow == SHIFT:
        kept = kept_tokens(engine, request)
        if kept > limit // 2:
            raise PymlError(f"n_keep: expected at most {limit // 2}, half of the context, got {quoted(kept)}")
    elif held + len(prompt) > limit:
        after = f" after {held} in the cache" if held else ""
        raise ContextOverflowError(
            f"Sequence length exceeded: max={limit}, actual={held + len(prompt)} "
            f"(the context holds {limit} tokens, the prompt has {len(prompt)}{after})"
        )
    return limit


def kept_tokens(engine: Engine, request: Request) -> int:
    """Number of tokens at the beginning that a context shift keeps."""
    if request.options.n_keep is not None:
        return request.options.n_keep
    return int(request.prompt[0] == engine.tokenizer.bos_id)


def check_memory(engine: Engine, others: Iterable[Completion], positions: int, held: int) -> None:
    """Whether keys and values of so many positions fit, of which ``held`` bytes are there, beside those of other texts.

    What the others will still take counts as taken. Kept prefixes give way to texts.

    Raises:
        OutOfMemoryError: they do not fit.
    """
    layout = engine.kv_layout
    needed = max(0, layout.bytes_for(positions) - held)
    for other in others:
        needed += max(0, layout.bytes_for(other.cache.max_length) - other.cache.nbytes)
    what = f"a KV cache of {positions} positions"
    try:
        memory.require(needed, what)
    except OutOfMemoryError:
        engine.prefix_cache.clear()
        memory.require(needed, what)
