"""A model's tokens as llguidance wants them, and matchers made with them.

Letters: V = vocabulary size.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from pyml_core.locks import Lock
from pyml_core.pickling import OfOneProcess

from .. import logs
from ..aside import run_aside
from . import trial
from .grammar import Grammar, GrammarError
from .matcher import Matcher, guarded, library, reason
from .sources import Source, source_of
from .trial_process import STACK

if TYPE_CHECKING:
    from ..tokenizer import Tokenizer

_KEPT = 16  # compiled grammars
_FORCED = 1 << 15  # characters of a forced text that is encoded ahead: encoding takes some hundred bytes for each
_COERCED = "oneOf not fully supported"  # a warning that is wrong where the branches are known to exclude each other


class Vocabulary(OfOneProcess, instead="each process makes its own"):
    """The tokens of a model in the tree that llguidance searches. Threads may share it.

    Args:
        tokenizer: text to ids, and the bytes of each token.
        eos_ids: tokens that end a text; those that the model has no row for are passed over.
        size: V, rows that the model has; those beyond the tokenizer's are never allowed.

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
        self._compiled: OrderedDict[Grammar, Any] = OrderedDict()  # the one used last is the last
        self._lock = Lock()

    def matcher(self, grammar: Grammar) -> Matcher:
        """A matcher at the beginning of a text.

        Raises:
            GrammarError: the grammar is malformed, too large, has what llguidance does not know, or matches nothing.
            Cancelled: the token that the thread has entered asks for it, while the grammar is compiled.
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
        """The grammar for one text alone: copies share a lexer, which other texts may have exhausted."""
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
            compiled = run_aside(lambda: self._checked(grammar, source), stack=2 * STACK)
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
        Matcher(compiled.deep_copy(), self.size, grammar.kind).allowed()  # an error if no text matches at all
        return compiled

    def _make(self, kind: str, source: str) -> Any:
        with guarded(kind):
            compiled = self._llguidance.LLMatcher(self._tree, source, log_level=0, limits=self._limits)
            if compiled.is_error():
                raise GrammarError(f"{kind}: {reason(compiled.get_error(), kind)}")
        return compiled


class _Adapter:
    """The attributes and the call that llguidance asks of a tokenizer.

    Attributes:
        greedy: ids of a text, the longest token first; set once there is a tree of tokens.
    """

    def __init__(self, tokenizer: Tokenizer, eos_id: int, size: int) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = eos_id
        self.bos_token_id = tokenizer.bos_id
        self.tokens = [tokenizer.token_bytes(token) for token in range(size)]
        self.special_token_ids = sorted(token for token in tokenizer.special_ids if token < size)
        self.greedy: Callable[[str], list[int]] = lambda _: []

    def __call__(self, text: str) -> list[int]:
        """Ids of a text, or of its first ``_FORCED`` characters, that stands within another one.

        They are without a space that the tokenizer puts before texts.
        """
        text = text[:_FORCED]
        ids = self._encode(text)
        if self._bytes(ids) == text.encode():
            return ids
        mark = self._encode("\n")
        ids = self._encode("\n" + text)
        if ids[: len(mark)] == mark and self._bytes(ids[len(mark) :]) == text.encode():
            return ids[len(mark) :]
        ids = self.greedy(text)  # the tokenizer changes texts: what a grammar says has to come as it is
        return ids if self._bytes(ids) == text.encode() else []

    @property
    def special_texts(self) -> dict[int, str]:
        """What a grammar may call the special tokens."""
        return {token: self.tokens[token].decode(errors="replace") for token in self.special_token_ids}

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special=False, parse_special=False)

    def _bytes(self, ids: list[int]) -> bytes:
        return b"".join(self.tokens[token] for token in ids)


def _llguidance() -> Any:
    try:
        import llguidance
    except ImportError:
        raise GrammarError('structured output needs llguidance: pip install "pyml-nlp[structured]"') from None
    return llguidance
