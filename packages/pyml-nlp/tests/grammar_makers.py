"""Shared by the tests of structured output: a small vocabulary, and checks of texts against a grammar."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest
from tokenizer_makers import byte_level_metadata

from pyml_nlp.structured.grammar import Grammar, GrammarError, one_grammar
from pyml_nlp.structured.vocabulary import Vocabulary
from pyml_nlp.tokenizer import Tokenizer
from pyml_nlp.tokenizer.gguf import load_gguf

CLOSED: dict[str, Any] = {"type": "object", "additionalProperties": False}


class Words:
    """A byte-level vocabulary, with checks of the texts that a grammar allows."""

    def __init__(self) -> None:
        self.tokenizer: Tokenizer = load_gguf(byte_level_metadata("gpt-2"), "test.gguf")
        self.ends = self.tokenizer.eos_ids or (0,)
        known = {self.tokenizer.token_bytes(token): token for token in range(self.tokenizer.vocab_size)}
        self._bytes = [known[bytes([byte])] for byte in range(256)]
        self.vocabulary = Vocabulary(self.tokenizer, self.ends, self.tokenizer.vocab_size)

    def allows(self, grammar: Grammar, text: str) -> bool:
        """Whether the whole text matches, byte by byte."""
        matcher = self.vocabulary.matcher(grammar)
        try:
            for byte in text.encode():
                matcher.take(self._bytes[byte])
        except GrammarError:
            return False
        return matcher.complete

    def schema_allows(self, schema: dict[str, Any] | str, text: str) -> bool:
        """Check texts against a schema."""
        return self.allows(grammar_of(schema), text)

    def walk(self, grammar: Grammar, draw: random.Random, most: int = 400) -> str | None:
        """A text of random tokens among those that may come next; None: it does not end soon."""
        matcher, data = self.vocabulary.matcher(grammar), b""
        for _ in range(most):
            if matcher.ended:
                return data.decode()
            allowed = np.flatnonzero(matcher.allowed()).tolist()
            ends = [token for token in allowed if token in self.ends]
            if ends and draw.random() < 0.5:
                return data.decode()
            closing = [token for token in allowed if self.tokenizer.token_bytes(token)[:1] in (b'"', b"}", b"]")]
            token = draw.choice(closing if closing and len(data) > 60 else allowed)
            if token in self.ends:
                return data.decode()
            for number in [token, *self._after(matcher, token)]:
                data += self.tokenizer.token_bytes(number)
        return None

    def _after(self, matcher: Any, token: int) -> list[int]:
        matcher.take(token)
        forced: list[int] = matcher.forced()
        for number in forced:
            matcher.take(number)
        return forced


def grammar_of(schema: dict[str, Any] | str) -> Grammar:
    """The grammar of a JSON schema."""
    grammar = one_grammar(schema=schema)
    assert grammar is not None
    return grammar


def dumped(value: object) -> str:
    """JSON as it is written."""
    return json.dumps(value, ensure_ascii=False)


def refused(words: Words, schema: dict[str, Any] | str) -> str:
    """The message with which a schema is refused."""
    with pytest.raises(GrammarError) as error:
        words.vocabulary.matcher(grammar_of(schema))
    message = str(error.value)
    assert "\n" not in message
    assert len(message) <= 320
    assert "coerce" not in message
    return message
