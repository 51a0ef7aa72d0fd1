"""One text: its tokens as they come, and its state between two runs of the model."""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic
from typing import Protocol

from pyml_core.cancel import CancelToken
from pyml_core.errors import PymlError, quoted
from pyml_core.locks import importing
from pyml_core.pickling import OfOneProcess
from pyml_core.sampling import Sampler
from pyml_core.want import SampledToken
from pyml_nn import KVCache

from ..structured.grammar import LateGrammar
from ..structured.matcher import Matcher
from .context_shift import retained
from .draft_model import Drafting
from .request import Request
from .speculation import Drafter
from .stop_tokens import StopTokens
from .stopping import StopStrings

STOP, LENGTH, TIMEOUT, CANCELLED, FAILED = "stop", "length", "timeout", "cancelled", "error"
"""Why a text ended: a token or string that ends texts; max_tokens or the context's end; deadline; cancel; an error."""


def stop_reason(token: CancelToken) -> str | None:
    """``"cancelled"`` or ``"timeout"`` if a token has stopped what runs under it."""
    if token.cancelled:
        return CANCELLED
    return TIMEOUT if token.expired else None


class StreamDecoder(Protocol):
    """Turns tokens into text as its characters become complete."""

    def push(self, token: int) -> str:
        """The characters that this token completes."""
        ...

    def flush(self) -> str:
        """The characters that are left at the end of the text."""
        ...


@dataclass(slots=True)  # frozen ones take five times as long to make
class Step:
    """One token of a text.

    Attributes:
        token: its id. The last one may be an end-of-sequence token, which has no text.
        text: the characters that it completes, possibly none. The texts of all steps together are the whole text,
            unless a deadline, a cancel or an error ends it early.
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


class Completion(OfOneProcess, instead="send its text, tokens and finish_reason instead"):
    """One prompt and its text so far.

    Attributes:
        sequence: its number among the texts generated together.
        prompt: token ids of the prompt.
        options: how it is generated; the sampling has a seed, unless it is greedy.
        cache: its keys and values.
        sampler: chooses its tokens.
        ends: tokens that end it.
        tokens: ids of the text so far, an end-of-sequence token included.
        pending: ids that the model has to run next: (the rest of) the prompt, then the last token.
        position: of the next token in the sequence, prompt included.
        stop_token: ends it when it is cancelled or expires.
        max_positions: most positions of the cache that it takes.
        n_keep: tokens at the beginning that a context shift retains.
        shifted: whether the context has been shifted.
        drafting: what may draft its tokens.
        drafter: proposes how it goes on, once it has begun; None: nothing does.
        chosen: tokens that have been chosen and are not part of the text yet, the next one last.
        drafted, accepted: drafted tokens that were checked, and those of them that were right.
        reused: positions of the prompt that were not computed but taken from the prefix cache.
        finish_reason: ``"stop"``, ``"length"``, ``"timeout"``, ``"cancelled"``, ``"error"``; None while it runs.
        error: the error that ended it, with the reason ``"error"``.
        prefill_ms: time of the prompt's model runs.
        decode_ms: time of all later steps, and of choosing the first token.
        stopped_by: the stop string or the token that ended the text; None if neither did.
        cache_given: whether the cache is the caller's, who may continue from it.
        matcher: which tokens the grammar allows next; it advances as tokens are chosen. None: all are allowed.
        forced: tokens that the grammar forces after the chosen ones, whatever the logits are.
        grammar_ended: whether the grammar allows nothing after them.
        stop_tokens: where its stop strings end, and where a late grammar begins; None: it has none.
        late_matcher: becomes the matcher where a :class:`.LateGrammar` begins; None: there is none to come.
        logprobs: each token's own log probability and those of the most probable ones (as in :class:`Step`), if the
            request asks for them.
        client: whose text it is; None: not told.
        priority: texts of a higher one get places first.
        salt: its prompt shares the prefix cache with texts of the same salt.
        queue_deadline: time at which it ends if it has never had a place by then; None: it waits.
        placed: whether it has a place: its prompt or its tokens are being computed.
        submitted_at, admitted_at, first_token_at, ended_at: when it was submitted or prepared, got a place, had its
            first token, and ended, as :func:`time.monotonic` counts; None before. The wait for a place is
            ``admitted_at - submitted_at``, the time to the first token ``first_token_at - submitted_at``.
    """

    def __init__(
        self,
        sequence: int,
        request: Request,
        cache: KVCache,
        decoder: StreamDecoder,
        sampler: Sampler,
        ends: frozenset[int] = frozenset(),
        matcher: Matcher | None = None,
        stop_token: CancelToken | None = None,
        drafting: Drafting | None = None,
    ) -> None:
        self.sequence = sequence
        self.prompt = request.prompt
        self._before = cache.ids  # of a given cache
        self.options = request.options
        self.cache = cache
        self.sampler = sampler
        self.ends = ends
        self.tokens: list[int] = []
        self.pending = list(request.prompt)
        self.position = cache.length + len(request.prompt)
        self.stop_token = CancelToken() if stop_token is None else stop_token
        self.max_positions = cache.max_length
        self.n_keep = 0
        self.shifted = False
        self.reused = 0
        self.drafted = self.accepted = 0
        self.finish_reason: str | None = None
        self.error: PymlError | None = None
        self.prefill_ms = 0.0
        self.decode_ms = 0.0
        self.stopped_by: str | int | None = None
        self.cache_given = False
        self.matcher = matcher
        self.forced: list[int] = []
        self.grammar_ended = False
        self.stop_tokens: StopTokens | None = None
        self.late_matcher: Matcher | None = None
        self.logprobs: list[tuple[float, tuple[tuple[int, float], ...]]] = []
        self.drafting = Drafting() if drafting is None else drafting
        self.drafter: Drafter | None = None
        self.chosen: list[SampledToken] = []
        self.client: str | None = None
        self.priority = 0
        self.salt = ""
        self.queue_deadline: float | None = None
        self.placed = False
        self.submitted_at = monotonic()
        self.admitted_at: float | None = None
        self.first_token_at: float | None = None
        self.ended_at: float | None = None
        self._decoder = decoder
        self._masked = False  # the sampler's mask is the grammar's present one
        self._grammar_from = 0  # index of the first token that the grammar has to match
        self._stops = StopStrings(request.options.stop, request.options.include_stop)
        self._pieces: list[str] = []

    def __repr__(self) -> str:
        return f"<Completion {self.sequence}: {summary(self)}>"

    def _repr_html_(self) -> str:
        return html_summary("Completion", self)

    @property
    def text(self) -> str:
        """The text so far, in whole characters."""
        return "".join(self._pieces)

    @property
    def ids(self) -> list[int]:
        """All token ids: those that were in the cache, the prompt and the text."""
        return [*self._before, *self.prompt, *self.tokens]

    def take(self, token: int, reason: str | None, silent: bool = False) -> str:
        """Add a token, ending the text if there is a reason or a stop string; returns the characters it completes.

        A silent token, such as an end-of-sequence token, has no text of its own.
        """
        self.tokens.append(token)
        self.pending = [token]
        self.position += 1
        if self.drafter is not None:
            self.drafter.append(token)
        if self.late_matcher is not None:
            self._begin_late(token)
        if silent:
            self.stopped_by = token
            return self.end(reason or STOP)
        text = self._decoder.push(token)
        if self.options.stop:
            text = self._stops.push(text)
            if self._stops.found is not None:
                reason = STOP
                if self.stop_tokens is not None:
                    self.stop_tokens.add(token)
        self._pieces.append(text)
        return text if reason is None else text + self.end(reason)

    def shift_context(self) -> None:
        """Drop the older tokens of the context if the pending ids have no room in it."""
        cache = self.cache
        if cache.length + len(self.pending) <= cache.max_length:
            return
        ids = retained([*cache.ids, *self.pending], self.n_keep, cache.max_length)
        self.shifted = True
        cache.trim(min(self.n_keep, cache.length))
        self.pending = ids[cache.length :]

    def set_chosen(self, tokens: list[SampledToken]) -> None:
        """Keep the tokens of a call of the model. Keys and values of each but the last count once the text has it."""
        self.cache.rewind(self.cache.length - len(tokens) + 1)
        self.chosen = tokens[::-1]

    def next_chosen(self) -> SampledToken:
        """The next one of several tokens of a call; the text's last token has been run."""
        self.cache.append(self.pending)
        return self.chosen.pop()

    def rewind_choices(self, sampler: Sampler) -> None:
        """Forget tokens that a run has chosen and that the text does not have.

        Args:
            sampler: a new one, which has counted the tokens of the text.
        """
        self.sampler, self._masked = sampler, False
        if self.matcher is not None:
            self.matcher.rewind(len(self.tokens) - self._grammar_from)
            self.forced, self.grammar_ended = self.matcher.forced(), self.matcher.ended

    # ---- its grammar

    def update_mask(self) -> None:
        """Let the sampler choose among the tokens that the grammar allows next, or the one that it forces.

        Raises:
            GrammarError: there is none, or the grammar takes more work than llguidance's limits allow.
        """
        if self.matcher is not None and not self._masked:
            self.sampler.set_mask(self.matcher.mask_of(self.forced[0]) if self.forced else self.matcher.mask())
            self._masked = True

    def follow(self, token: int) -> bool:
        """Advance the grammar by a token that was chosen; whether the next one can be chosen at once.

        Raises:
            GrammarError: as of :meth:`update_mask`.
        """
        if self.matcher is None or token in self.ends:
            return False
        if self.forced:
            del self.forced[0]  # this one: it had a run, for its log probability
        self._advance(self.matcher, token)
        if self.grammar_ended or self.takes_forced:
            return False
        self.update_mask()
        return True

    @property
    def takes_forced(self) -> bool:
        """Whether the tokens after the chosen ones are known without a run. With log probabilities they need one."""
        return bool(self.forced) and self.options.logprobs is None

    def take_forced(self) -> int:
        """The next forced token, which has been added to the sampler and the grammar."""
        token = self.forced.pop(0)
        self.sampler.add(token)
        if self.matcher is not None and token not in self.ends:
            self._advance(self.matcher, token)
        return token

    def _advance(self, matcher: Matcher, token: int) -> None:
        matcher.take(token)
        self._masked = False
        if not self.forced:
            self.forced = matcher.forced()
        self.grammar_ended = matcher.ended

    def _begin_late(self, token: int) -> None:
        """Let the grammar begin with this token, if it is one of those that begin it."""
        grammar = self.options.grammar
        if not isinstance(grammar, LateGrammar) or token not in grammar.after:
            return
        if grammar.outside is not None:
            begin, end = grammar.outside
            last = next((one for one in reversed([*self.prompt, *self.tokens]) if one in (begin, end)), end)
            if last != end:
                return
        self.matcher, self.late_matcher = self.late_matcher, None
        self.drafter = None  # drafts do not know the grammar
        self._grammar_from = len(self.tokens) - 1
        if self.matcher is not None:
            self._advance(self.matcher, token)

    # ---- its end

    def end(self, reason: str) -> str:
        """End the text without another token; returns the characters that were held back."""
        self._drop_chosen()
        self.ended_at = monotonic()
        text = self._stops.push(self._decoder.flush()) + self._stops.flush()
        self._pieces.append(text)
        self.finish_reason = reason
        if self._stops.found is not None:
            self.finish_reason, self.stopped_by = STOP, self._stops.found
        return text

    def fail(self, error: PymlError) -> None:
        """End the text with the tokens that it has, for an error of its own."""
        self.error = error
        self.end(FAILED)
        self.finish_reason = FAILED  # whatever stop string the end has brought

    def abandon(self, error: BaseException | None) -> None:
        """End the text whatever state it is in: with an error, or None as cancelled."""
        self.finish_reason = CANCELLED if error is None else FAILED
        self.ended_at = monotonic()
        if isinstance(error, PymlError):
            self.error = error
        elif error is not None:
            self.error = PymlError(f"a fault ended the text: {error!r}")
            self.error.__cause__ = error

    def release(self) -> None:
        """Free the memory that only a running text needs: state of drafts and grammars, and a cache of its own."""
        self.matcher = self.late_matcher = self.drafter = None
        if not self.cache_given:
            self.cache.trim(0)

    def _drop_chosen(self) -> None:
        """Discard tokens that are not used, and free their pages."""
        if self.chosen:
            self.chosen = []
            self.cache.trim(self.cache.length)


def summary(completion: Completion) -> str:
    """A text's state on one line, for reprs."""
    count, reason = len(completion.tokens), completion.finish_reason or "running"
    return f"{count} of at most {completion.options.max_tokens} tokens, {quoted(completion.text)}, {reason}"


def html_summary(title: str, completion: Completion) -> str:
    """A text and its state as a table, for notebooks."""
    with importing:
        from pyml_core.notebook import html_table  # start-up: for notebooks alone

    rows = {
        "text": completion.text,
        "tokens": f"{len(completion.tokens)} of at most {completion.options.max_tokens}",
        "prompt": f"{len(completion.prompt)} tokens, {completion.reused} of them reused",
        "sampling": completion.options.sampling,
        "finish reason": completion.finish_reason or "running",
        "time": f"prompt {completion.prefill_ms:.0f} ms, text {completion.decode_ms:.0f} ms",
    }
    return html_table(title, rows)
