"""A model's tokens as llguidance wants them, and matchers made with them.

Letters: V = vocabulary size.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from pyml_core.locks import Lock
from pyml_core.pickling import OfOneProcess

from .. import logs
from .grammar import Grammar, GrammarError
from .matcher import Matcher, library, one_line

if TYPE_CHECKING:
    from ..tokenizer import Tokenizer

_KEPT = 16  # compiled grammars

_JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": ", "lenient": False}


class Vocabulary(OfOneProcess, instead="each process makes its own"):
    """The tokens of a model in the tree that llguidance searches. Threads may share it.

    Args:
        tokenizer: text to ids, and the bytes of each token.
        eos_ids: tokens that end a text.
        size: V, rows that the model has; those beyond the tokenizer's are never allowed.

    Raises:
        GrammarError: llguidance is not installed, or no token ends a text.
    """

    def __init__(self, tokenizer: Tokenizer, eos_ids: Collection[int], size: int) -> None:
        with library:
            self._llguidance = _llguidance()
        if not eos_ids:
            raise GrammarError("structured output needs an end-of-sequence token, the model has none")
        self.size = size
        adapter = _Adapter(tokenizer, min(eos_ids), size)
        with library:
            self._tree = self._llguidance.LLTokenizer(self._llguidance.TokenizerWrapper(adapter), size, sorted(eos_ids))
        self._compiled: OrderedDict[Grammar, Any] = OrderedDict()  # the one used last is the last
        self._lock = Lock()

    def matcher(self, grammar: Grammar) -> Matcher:
        """A matcher at the beginning of a text.

        Raises:
            GrammarError: the grammar is malformed, too large, has what llguidance does not know, or matches nothing.
        """
        with self._lock, library:
            compiled = self._compiled.pop(grammar, None) or self._compile(grammar)
            self._compiled[grammar] = compiled
            if len(self._compiled) > _KEPT:
                self._compiled.popitem(last=False)
            return Matcher(compiled.deep_copy(), self.size, grammar.kind)

    def _compile(self, grammar: Grammar) -> Any:
        make = self._llguidance.LLMatcher
        if grammar.kind == "schema":
            try:
                source = make.grammar_from_json_schema(grammar.source, overrides=_JSON_STYLE)
            except ValueError as error:  # nested more deeply than llguidance reads
                raise GrammarError(f"schema: {one_line(str(error))}") from None
        elif grammar.kind == "regex":
            source = make.grammar_from_regex(grammar.source)
        else:
            source = make.grammar_from_lark(grammar.source)
        compiled = make(self._tree, source, log_level=0)
        if compiled.is_error():
            raise GrammarError(f"{grammar.kind}: {one_line(compiled.get_error())}")
        Matcher(compiled.deep_copy(), self.size, grammar.kind).allowed()  # an error if no text matches at all
        for warning in compiled.get_grammar_warnings():
            logs.generator.warning("%s: %s", grammar.kind, one_line(warning))
        return compiled


class _Adapter:
    """The attributes and the call that llguidance asks of a tokenizer."""

    def __init__(self, tokenizer: Tokenizer, eos_id: int, size: int) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = eos_id
        self.bos_token_id = tokenizer.bos_id
        self.tokens = [tokenizer.token_bytes(token) for token in range(size)]
        self.special_token_ids = sorted(token for token in tokenizer.special_ids if token < size)

    def __call__(self, text: str) -> list[int]:
        """Ids of a text that stands within another one: without a space that the tokenizer puts before texts."""
        ids = self._encode(text)
        if self._bytes(ids) == text.encode():
            return ids
        mark = self._encode("\n")
        ids = self._encode("\n" + text)
        if ids[: len(mark)] == mark and self._bytes(ids[len(mark) :]) == text.encode():
            return ids[len(mark) :]
        return []  # nothing is forced then, and the model chooses

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
