"""One text: its tokens as they come, and what is known of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from pyml_core.errors import PymlError
from pyml_core.pickling import OfOneProcess
from pyml_core.want import GreedyToken, TopLogits
from pyml_nn import KVCache

from ..options.sampling import PENALTIES
from ..sampling import F32Array, History
from ..structured.matcher import Matcher
from .context_shift import retained
from .request import Request
from .speculation import Drafter
from .stopping import StopStrings

STOP, LENGTH, TIMEOUT, CANCELLED, FAILED = "stop", "length", "timeout", "cancelled", "error"
"""Why a text ended: a token or string that ends texts; max_tokens or the context's end; deadline; cancel; an error."""

Logits = F32Array | TopLogits | GreedyToken
"""Of one position: all of them, float32 (V,), the largest, or the largest one."""

Rows = F32Array | list[TopLogits] | list[GreedyToken]
"""Of several positions: float32 (P, V), or the largest of each."""


class StreamDecoder(Protocol):
    """Turns tokens into text as its characters become complete."""

    def push(self, token: int) -> str:
        """The characters that this token completes."""
        ...

    def flush(self) -> str:
        """What is left at the end of the text."""
        ...


@dataclass(slots=True)  # frozen ones take five times as long to make
class Step:
    """One token of a text.

    Attributes:
        token: its id. The last one may be an end-of-sequence token, which has no text.
        text: the characters that it completes, possibly none. The texts of all steps together are the whole text, but
            for what an early end (a deadline, a cancel) cuts short.
        index: its number in the text, from 0.
        position: its position in the sequence, prompt included.
        sequence: which of the texts generated together it belongs to.
        logprob: natural logarithm of its probability in the model's own distribution, which is the softmax of the
            logits before penalty, temperature and truncation; None unless logprobs were asked for.
        top_logprobs: (token id, logprob) of the most probable tokens, most probable first; None unless asked for.
        finish_reason: of the last step: ``"stop"`` or ``"length"``; None before.
        model_ms: milliseconds of the model's run (0 for the first token, which comes out of the prefill).
        sample_ms: milliseconds of choosing it.
    """

    token: int
    text: str
    index: int
    position: int
    sequence: int
    logprob: float | None
    top_logprobs: tuple[tuple[int, float], ...] | None
    finish_reason: str | None
    model_ms: float
    sample_ms: float


class Ahead(NamedTuple):
    """What has been computed of a text beyond its last token, on drafted tokens or on the most probable ones.

    Attributes:
        ids: the tokens that were run, in order; keys and values of each count once the text has it.
        rows: the logits after each of them.
    """

    ids: list[int]
    rows: list[Logits]


class Completion(OfOneProcess, instead="send its text, tokens and finish_reason instead"):
    """One prompt and its text so far.

    Attributes:
        sequence: its number among the texts generated together.
        prompt: token ids of the prompt.
        options: how it is generated; the sampling has a seed, unless it is greedy.
        cache: its keys and values.
        tokens: ids of the text so far, an end-of-sequence token included.
        pending: ids that the model has to run next: (the rest of) the prompt, then the last token.
        position: of the next token in the sequence, prompt included.
        n_keep: number of tokens at the beginning that a context shift keeps.
        shifted: whether the context was shifted.
        drafter: proposes how it goes on, once it has begun; None: nothing does.
        ahead: what has been computed beyond the last token.
        reused: positions of the prompt that were not computed but taken from the prefix cache.
        finish_reason: ``"stop"``, ``"length"``, ``"timeout"``, ``"cancelled"``, ``"error"``; None while it runs.
        error: what ended it, with the reason ``"error"``.
        prefill_ms: time of the prompt's model runs.
        decode_ms: time of all later steps, and of choosing the first token.
        stopped_by: the stop string or the token that ended the text; None if nothing did.
        cache_given: whether the cache is the caller's, who may go on from it.
        matcher: says which tokens may come next, and goes on with every token; None: all may.
        forced: the tokens that come next whatever the model says.
        logprobs: of each token its own log probability and those of the most probable ones (as in :class:`Step`), where
            they were asked for.
        history: which tokens it has, for penalties; None: there are none.
    """

    def __init__(
        self,
        sequence: int,
        request: Request,
        cache: KVCache,
        decoder: StreamDecoder,
        matcher: Matcher | None = None,
    ) -> None:
        self.sequence = sequence
        self.prompt = request.prompt
        self.options = request.options
        self.cache = cache
        self.tokens: list[int] = []
        self.pending = list(request.prompt)
        self.position = cache.length + len(request.prompt)
        self.n_keep = 0
        self.shifted = False
        self.reused = 0
        self.finish_reason: str | None = None
        self.error: PymlError | None = None
        self.prefill_ms = 0.0
        self.decode_ms = 0.0
        penalised = not PENALTIES.isdisjoint(request.options.sampling.rules)
        self.history = History([*cache.ids, *request.prompt]) if penalised else None
        self.stopped_by: str | int | None = None
        self.cache_given = False
        self.matcher = matcher
        self.forced: list[int] = []
        self.logprobs: list[tuple[float, tuple[tuple[int, float], ...]]] = []
        self.drafter: Drafter | None = None
        self.ahead: Ahead | None = None
        self._decoder = decoder
        self._stops = StopStrings(request.options.stop, request.options.include_stop)
        self._pieces: list[str] = []

    @property
    def text(self) -> str:
        """The text so far, in whole characters."""
        return "".join(self._pieces)

    def take(self, token: int, reason: str | None, silent: bool = False) -> str:
        """Add a token, ending the text if there is a reason or a stop string; returns the characters it completes.

        A silent token, such as an end-of-sequence token, has none of its own.
        """
        self.tokens.append(token)
        self.pending = [token]
        self.position += 1
        if self.history is not None:
            self.history.add(token)
        if self.drafter is not None:
            self.drafter.append(token)
        if self.ahead is not None and self.ahead.ids[:1] != [token]:
            self._drop_ahead()
        if silent:
            self.stopped_by = token
            return self.end(reason or STOP)
        text = self._decoder.push(token)
        if self.options.stop:
            text = self._stops.push(text)
            if self._stops.found is not None:
                reason = STOP
        self._pieces.append(text)
        return text if reason is None else text + self.end(reason)

    def shift_context(self) -> bool:
        """Shift the context if the pending ids do not fit; returns whether it was shifted."""
        cache = self.cache
        if cache.length + len(self.pending) <= cache.max_length:
            return False
        ids = retained([*cache.ids, *self.pending], self.n_keep, cache.max_length)
        self.shifted = True
        cache.trim(min(self.n_keep, cache.length))
        self.pending = ids[cache.length :]
        return True

    def look_ahead(self, ids: list[int], rows: list[Logits]) -> None:
        """Keep what has been computed on tokens that are not yet part of the text, and the logits after each."""
        self.cache.rewind(self.cache.length - len(ids))
        self.ahead = Ahead(ids, rows)

    def follow(self) -> Logits:
        """The logits after the last token, which is the next one of those computed ahead."""
        ahead = self.ahead
        if ahead is None:
            raise RuntimeError("nothing was computed ahead")
        self.cache.append([ahead.ids.pop(0)])
        return ahead.rows.pop(0)

    def end(self, reason: str) -> str:
        """End the text without another token; returns the characters that were held back."""
        self._drop_ahead()
        text = self._stops.push(self._decoder.flush()) + self._stops.flush()
        self._pieces.append(text)
        self.finish_reason = reason
        if self._stops.found is not None:
            self.finish_reason, self.stopped_by = STOP, self._stops.found
        return text

    def fail(self, error: PymlError) -> None:
        """End the text with what it has, for an error of its own."""
        self.error = error
        self.end(FAILED)
        self.finish_reason = FAILED  # whatever stop string the end has brought

    def _drop_ahead(self) -> None:
        """Forget what was computed in vain, and give back its pages."""
        if self.ahead is not None:
            self.ahead = None
            self.cache.trim(self.cache.length)
