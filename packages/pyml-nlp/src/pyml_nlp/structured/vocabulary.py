"""A model's vocabulary in llguidance's form, and matchers made with it.

Letters: V = vocabulary size.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from pyml_core.locks import Lock
from pyml_core.pickling import OfOneProcess

from .. import logs
from ..background import run_cancellable
from . import trial
from .grammar import Grammar, GrammarError
from .matcher import Matcher, guarded, library, reason
from .sources import Source, source_of
from .trial_process import STACK

if TYPE_CHECKING:
    from ..tokenizer import Tokenizer

_KEPT = 16  # compiled grammars in the cache
_FORCED = 1 << 15  # maximum number of characters of a forced text encoded at once: each takes some hundred bytes
_COERCED = "oneOf not fully supported"  # a false warning for branches that are known to exclude each other


class Vocabulary(OfOneProcess, instead="each process makes its own"):
    """A model's tokens in the tree that llguidance searches. Thread-safe.

    Args:
        tokenizer: encodes texts, and knows the bytes of each token.
        eos_ids: tokens that end a text; those without a row in the model are ignored.
        size: V, the number of the model's rows; rows beyond the tokenizer's vocabulary are never allowed.

    Raises:
        GrammarError: llguidance is not installed, or no token ends a text.
    """

    def __init__(self, tokenizer: Tokenizer, eos_ids: Collection[int], size: int) -> None:
        with library:
            self._llguidance = _llguidance()
        ends = sorted(token for token in eos_ids if token < size)
        if not ends:
            had = f"the model has no row for {sorted(eos_ids)[0]}" if eos_ids else "the model has none"
            raise GrammarError(f"structured output needs an end-of-sequence token, {had}")
        self.size = size
        self._adapter = _Adapter(tokenizer, ends[0], size)
        with guarded("vocabulary"):
            wrapper = self._llguidance.TokenizerWrapper(self._adapter)
            self._tree = self._llguidance.LLTokenizer(wrapper, size, ends)
            self._adapter.greedy = self._tree.greedy_tokenize
        self._limits = self._llguidance.LLParserLimits(verbose_errors=False)
        self._compiled: OrderedDict[Grammar, Any] = OrderedDict()  # least recently used first
        self._lock = Lock()

    def matcher(self, grammar: Grammar) -> Matcher:
        """Return a matcher at the beginning of a text.

        Raises:
            GrammarError: the grammar is malformed, too large, not supported by llguidance, or matches no text.
            Cancelled: the token that the thread has entered was cancelled while the grammar was compiled.
        """
        with self._lock:
            compiled = self._compiled.get(grammar)
        if compiled is None:
            compiled = self._compile(grammar)
        with self._lock:
            self._compiled[grammar] = compiled
            self._compiled.move_to_end(grammar)
            if len(self._compiled) > _KEPT:
                self._compiled.popitem(last=False)
        with guarded(grammar.kind):
            return Matcher(compiled.deep_copy(), self.size, grammar.kind, lambda: self._compile_anew(grammar))

    def _compile_anew(self, grammar: Grammar) -> Any:
        """Compile the grammar for one text only: copies share a lexer, whose limits other texts may have exhausted."""
        with self._lock:
            self._compiled.pop(grammar, None)
        return self._make(grammar.kind, source_of(grammar, self._llguidance).text)

    def _compile(self, grammar: Grammar) -> Any:
        source = source_of(grammar, self._llguidance)
        if trial.is_small(grammar):
            compiled = self._checked(grammar, source)
        else:
            error = trial.try_out(grammar, source.text, self.size, self._adapter.special_texts)
            if error:
                raise GrammarError(f"{grammar.kind}: {reason(error, grammar.kind)}")
            compiled = run_cancellable(lambda: self._checked(grammar, source), stack=2 * STACK)
        with guarded(grammar.kind):
            warnings = compiled.get_grammar_warnings()
        for note in source.notes:
            logs.generator.warning("%s: %s", grammar.kind, note)
        for warning in warnings:
            if not warning.startswith(_COERCED):
                logs.generator.warning("%s: %s", grammar.kind, reason(warning, grammar.kind))
        return compiled

    def _checked(self, grammar: Grammar, source: Source) -> Any:
        compiled = self._make(grammar.kind, source.text)
        Matcher(compiled.deep_copy(), self.size, grammar.kind).allowed()  # fails if no text matches at all
        return compiled

    def _make(self, kind: str, source: str) -> Any:
        with guarded(kind):
            compiled = self._llguidance.LLMatcher(self._tree, source, log_level=0, limits=self._limits)
            if compiled.is_error():
                raise GrammarError(f"{kind}: {reason(compiled.get_error(), kind)}")
        return compiled


class _Adapter:
    """The interface that llguidance requires of a tokenizer.

    Attributes:
        greedy: encodes a text, the longest token first; set when the tree of tokens exists.
    """

    def __init__(self, tokenizer: Tokenizer, eos_id: int, size: int) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = eos_id
        self.bos_token_id = tokenizer.bos_id
        self.tokens = [tokenizer.token_bytes(token) for token in range(size)]
        self.special_token_ids = sorted(token for token in tokenizer.special_ids if token < size)
        self.greedy: Callable[[str], list[int]] = lambda _: []

    def __call__(self, text: str) -> list[int]:
        """Encode a text, up to ``_FORCED`` characters, inside another one.

        The ids are without the space that the tokenizer adds before a text.
        """
        text = text[:_FORCED]
        ids = self._encode(text)
        if self._bytes(ids) == text.encode():
            return ids
        mark = self._encode("\n")
        ids = self._encode("\n" + text)
        if ids[: len(mark)] == mark and self._bytes(ids[len(mark) :]) == text.encode():
            return ids[len(mark) :]
        ids = self.greedy(text)  # the tokenizer changes texts, but text from a grammar must stay exact
        return ids if self._bytes(ids) == text.encode() else []

    @property
    def special_texts(self) -> dict[int, str]:
        """The texts by which a grammar may name the special tokens."""
        return {token: self.tokens[token].decode(errors="replace") for token in self.special_token_ids}

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special=False, parse_special=False)

    def _bytes(self, ids: list[int]) -> bytes:
        return b"".join(self.tokens[token] for token in ids)


def _llguidance() -> Any:
    try:  # an optional dependency
        import llguidance
    except ImportError:
        raise GrammarError('structured output needs llguidance: pip install "pyml-nlp[structured]"') from None
    return llguidance
