"""Before a text begins: whether its tokens, the context and the memory allow it, and its state."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pyml_core.cancel import CancelToken
from pyml_core.errors import Cancelled, OutOfMemoryError, PymlError, ShapeError, quoted
from pyml_core.sampling import Sampler, SamplingRules
from pyml_nn import ContextOverflowError, KVCache

from .. import logs, memory
from ..engine import Engine
from ..errors import ArgumentError
from ..options.generation import SHIFT, GenerationOptions
from ..structured.grammar import Grammar, LateGrammar
from ..structured.matcher import Matcher
from ..tokenizer.decoding import ByteDecoding
from ..values import check_ids
from .completion import Completion, StreamDecoder
from .draft_model import Drafting
from .request import Request
from .stop_tokens import StopTokens, stop_tokens


def check_request(engine: Engine, request: Request, cache: Any) -> int:
    """Most positions that the prompt and its text may take together, after those of a cache (or None).

    Raises:
        ContextOverflowError: the prompt alone takes more, and the context is not shifted.
        ArgumentError: a token that the model does not have, or ``cache`` is not a KVCache.
        ShapeError: a cache of another origin.
        PymlError: a context shift would keep more than half of the context.
    """
    if cache is not None and not isinstance(cache, KVCache):
        raise ArgumentError(f"must be a KVCache (lm.new_cache() makes one), got {quoted(cache)}", "cache")
    engine.check_adapter(request.options.adapter)
    if cache is not None:
        _check_origin(engine, cache, request.options.adapter)
    check_ids("prompt", request.prompt, engine.vocab_size)
    check_ids("stop_ids", request.options.stop_ids, engine.vocab_size)
    check_ids("logit_bias", request.options.sampling.logit_bias or (), engine.vocab_size)
    prompt, held = request.prompt, 0 if cache is None else cache.length
    limit = engine.context_length if cache is None else min(cache.max_length, engine.context_length)
    if request.options.overflow == SHIFT:
        kept = n_kept(engine, request)
        if kept > limit // 2:
            raise PymlError(f"n_keep: expected at most {limit // 2}, half of the context, got {quoted(kept)}")
    else:
        check_length(limit, len(prompt), held)
    return limit


def _check_origin(engine: Engine, cache: KVCache, adapter: str | None) -> None:
    """Check that a cache is of this model, and of the text's adapter.

    Raises:
        ShapeError: it is not.
    """
    number = engine.model.origins.number(cache.origin, "cache")
    found = engine.adapters[number - 1] if number else None
    if found != adapter:
        both = [f"of adapter {quoted(name)}" if name is not None else "without an adapter" for name in (adapter, found)]
        raise ShapeError(f"cache: expected a KV cache {both[0]}, found one {both[1]}")


def check_length(limit: int, n_prompt: int, held: int = 0) -> None:
    """Check that a prompt fits the context, after ``held`` positions of a cache.

    Raises:
        ContextOverflowError: it does not.
    """
    if held + n_prompt > limit:
        after = f" after {held} in the cache" if held else ""
        raise ContextOverflowError(
            f"Sequence length exceeded: max={limit}, actual={held + n_prompt} "
            f"(the prompt has {n_prompt} tokens{after}; overflow=shift would forget the oldest ones)"
        )


def n_kept(engine: Engine, request: Request) -> int:
    """How many tokens at the beginning a context shift retains."""
    if request.options.n_keep is not None:
        return request.options.n_keep
    return int(request.prompt[0] == engine.tokenizer.bos_id)


def check_memory(engine: Engine, others: Iterable[Completion], completion: Completion) -> None:
    """Whether the keys and values of a text fit in memory next to those of other texts.

    The memory that the other texts will still need counts as taken. Kept prefixes are dropped for texts.

    Raises:
        OutOfMemoryError: they do not fit.
    """
    layout = engine.kv_layout
    needed = sum(max(0, layout.bytes_for(text.max_positions) - text.cache.nbytes) for text in (completion, *others))
    what = f"a KV cache of {completion.max_positions} positions"
    try:
        memory.require(needed, what)
    except OutOfMemoryError:
        engine.prefix_cache.clear()
        memory.require(needed, what)


def prepared(
    engine: Engine, request: Request, cache: KVCache | None, token: CancelToken, drafting: Drafting
) -> Completion:
    """A checked text that has not begun, with number 0; nothing is computed. See :meth:`.Generator.start`.

    Args:
        engine: of the model.
        request: how it is generated.
        cache: continue after its positions; None: a new one, just large enough.
        token: ends the text, and the compilation of its grammar.
        drafting: what may draft its tokens.
    """
    engine.check_open()
    limit = check_request(engine, request, cache)
    given, held = cache is not None, 0 if cache is None else cache.length
    max_positions = min(limit, held + len(request.prompt) + request.options.max_tokens)
    if cache is None:
        cache = engine.new_cache(max_positions, request.options.adapter)
    request = request.seeded()
    logs.generator.debug("[sampling] %s", request.options.sampling)
    decoder: StreamDecoder = engine.tokenizer.stream_decoder()
    matcher, options = None, request.options
    if options.grammar is not None:
        matcher = _matcher(engine, options.grammar, token)
        if not isinstance(options.grammar, LateGrammar):
            # The text is exactly the bytes that match: no space is taken from its beginning.
            decoder = ByteDecoding(engine.tokenizer.token_bytes)
    ends = engine.eos_ids.union(options.stop_ids)
    sampler = _sampler(engine, options, [*cache.ids, *request.prompt])
    completion = Completion(0, request, cache, decoder, sampler, ends, matcher, token, drafting)
    completion.cache_given = given
    completion.max_positions = max_positions
    completion.n_keep = n_kept(engine, request)
    completion.stop_tokens = stop_tokens(engine.tokenizer, options.stop, engine.vocab_size)
    if isinstance(options.grammar, LateGrammar):
        stops = completion.stop_tokens or StopTokens(engine.tokenizer, (), engine.vocab_size)
        completion.stop_tokens = stops.with_tokens(options.grammar.after)
        completion.late_matcher, completion.matcher = matcher, None
    return completion


def undo_choices(engine: Engine, completion: Completion) -> None:
    """Make a text as it was before a run that has failed: its sampler and grammar may have counted further tokens."""
    tokens, ids = completion.tokens, completion.ids
    prompt = ids[: len(ids) - len(tokens)]
    completion.rewind_choices(_sampler(engine, completion.options, prompt, tokens))


def _sampler(
    engine: Engine, options: GenerationOptions, prompt: Sequence[int], generated: Sequence[int] = ()
) -> Sampler:
    rules, index, size = options.sampling.core_rules, options.sample_index, engine.vocab_size
    return Sampler(rules, index, size, prompt, generated, options.logprobs)


def refused(engine: Engine, number: int, request: Request, error: PymlError) -> Completion:
    """The text of a request that was refused with this error, ended before it began."""
    cache, decoder = engine.new_cache(1), engine.tokenizer.stream_decoder()
    completion = Completion(number, request, cache, decoder, Sampler(SamplingRules(greedy=True), 0, engine.vocab_size))
    completion.fail(error)
    return completion


def _matcher(engine: Engine, grammar: Grammar, token: CancelToken) -> Matcher | None:
    """A matcher for a new text; None if the token has stopped it: the text ends before it begins."""
    try:
        with token:
            return engine.vocabulary.matcher(grammar)
    except Cancelled:
        return None
