"""What every tokenizer does, whatever it was made from."""

from __future__ import annotations

import hashlib
import logging
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from pyml_core.errors import PymlError, quoted
from pyml_core.locks import NoFork, cached_property
from pyml_core.pickling import OfOneProcess, SharedByCopies

from ..aside import run_aside
from ..errors import ArgumentError
from ..values import flag, whole
from .decoding import Decoding

_log = logging.getLogger("pyml.tokenizer")

MAX_TEXT = 8 << 20
"""Characters that one text may have: about ten times what the longest context takes, and seconds of work."""

LONG_TEXT = 1 << 14
"""Characters of a text that takes too long for a call that nobody can stop: a fraction of a second."""

MAX_TOKENS = 1 << 22
"""Tokens that a vocabulary may have: sixteen times the largest one known."""

MAX_TOKEN_LENGTH = 1 << 16
"""Characters that one token may have."""

libraries = NoFork("tokenizer")
"""The section of calls of ``tokenizers``, whose state and locks a forked child would find in use."""


class TextError(PymlError, ValueError):
    """A text that cannot be encoded: too long, or no Unicode text."""


class TokenIdError(PymlError, ValueError):
    """A token id that is none."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of a tokenizer beside how it cuts text.

    Attributes:
        kind: what it was made from: ``"tokenizer.json"``, ``"vocab.json"``, ``"tokenizer.model"``, ``"gguf llama"``
            or ``"gguf gpt2"``.
        vocab_size: the largest token id plus one. A model may have more rows than that (padding).
        bos_id: the token that begins a text, if there is one, whether or not it is put there.
        eos_ids: the tokens that end a text, ascending.
        special_ids: tokens that are no text: left out by ``decode`` unless asked for.
        prefix: ids that ``encode`` puts before a text.
        suffix: ids that ``encode`` puts after a text.
        named_tokens: texts of the tokens that the files give a name (``bos_token`` and the like), by name.
        chat_templates: Jinja sources of the model's chat templates, unchecked, by name; mostly one, ``default``.
    """

    kind: str
    vocab_size: int
    bos_id: int | None
    eos_ids: tuple[int, ...]
    special_ids: Collection[int]
    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()
    named_tokens: Mapping[str, str] = field(default_factory=dict)
    chat_templates: Mapping[str, str] = field(default_factory=dict)


class Tokenizer(SharedByCopies, ABC):
    """Text to token ids and back. Made by :func:`pyml_nlp.tokenizer.load_tokenizer`; safe to use from several threads.

    Attributes ``kind``, ``vocab_size``, ``bos_id``, ``eos_ids``, ``special_ids``: see :class:`Facts`.
    ``path``: the file or folder that it was loaded from, from the root; None: it was made of something else.

    It is pickled as this path, and loaded again where it is unpickled; an error if that gives another tokenizer.
    """

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.path: Path | None = None
        self.kind = facts.kind
        self.vocab_size = facts.vocab_size
        self.bos_id = facts.bos_id
        self.eos_ids = facts.eos_ids
        self.special_ids = frozenset(facts.special_ids)
        self._warned = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} from {self.kind}: {self.vocab_size} tokens>"

    def __reduce__(self) -> tuple[Any, ...]:
        from ..pickling import reduce_tokenizer

        return reduce_tokenizer(self)

    @cached_property
    def fingerprint(self) -> str:
        """32 hexadecimal digits that tell this tokenizer from others: its vocabulary, facts, and what it does."""
        facts = replace(self.facts, special_ids=sorted(self.facts.special_ids))
        digest = hashlib.sha256(f"{type(self).__name__} {facts!r}".encode())
        digest.update(self._content())
        return digest.hexdigest()[:32]

    @property
    def chat_template(self) -> str | None:
        """The Jinja source of the model's chat template, the default one of several; unchecked."""
        templates = self.facts.chat_templates
        return templates.get("default", next(iter(templates.values()), None))

    @cached_property
    def control_tokens(self) -> Mapping[str, int]:
        """Spellings and ids of the tokens that are no text, and of those that end one."""
        numbers = [*self.eos_ids, *sorted(self.special_ids)]  # of tokens spelled alike, text is read as a special one
        return {self._token_bytes(number).decode("utf-8", "replace"): number for number in numbers}

    def encode(
        self, text: str, add_special: bool = True, parse_special: bool = True, breaks: Sequence[int] = ()
    ) -> list[int]:
        """Token ids of a text.

        Args:
            add_special: put BOS (and whatever else the model wants) around the text.
            parse_special: read the spelling of a control token ("<eos>") in the text as that token, as the original
                tokenizers do. With False it is plain text and never becomes a control token; for text that is not to
                be trusted. Tokens that were added as plain words (GGUF: user-defined) are found either way.
            breaks: ascending places in the text that no control token may span: what is spelled across one is plain
                text. For text that is to be trusted in part.

        Raises:
            TextError: no str, more than ``MAX_TEXT`` characters, or a lone surrogate.
            ArgumentError: one of the others is of a wrong type.
            Cancelled: by the :class:`pyml_core.CancelToken` that this thread has entered, in a text of more than
                ``LONG_TEXT`` characters.
        """
        if not isinstance(text, str):
            raise TextError(f"text: expected str, got {type(text).__name__}")
        add_special, parse_special = flag("add_special", add_special), flag("parse_special", parse_special)
        _check_breaks(breaks, len(text))
        if len(text) > MAX_TEXT:
            raise TextError(f"text: expected at most {MAX_TEXT} characters, got {len(text)}")
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                found = ascii(error.object[error.start])
                raise TextError(
                    f"text: expected Unicode characters, got the lone surrogate {found} at {error.start}"
                ) from None
        if len(text) > LONG_TEXT:
            ids = run_aside(lambda: self._encode(text, parse_special, breaks))
        else:
            ids = self._encode(text, parse_special, breaks)
        return [*self.facts.prefix, *ids, *self.facts.suffix] if add_special else ids

    def encode_prompt(self, text: str) -> list[int]:
        """Token ids of a text that a model continues: those of :meth:`encode`, but BOS and EOS once.

        Where the text itself begins with what is put before it, or ends with what is put after it, it is left as it
        is; the first time, a warning says so.

        Raises:
            TextError: as of :meth:`encode`.
        """
        ids = self.encode(text, add_special=False)
        before, after = list(self.facts.prefix), list(self.facts.suffix)
        if before and ids[: len(before)] == before:
            self._warn("begins", before)
            ids = ids[len(before) :]
        if after and ids[-len(after) :] == after:
            self._warn("ends", after)
            ids = ids[: -len(after)]
        return [*before, *ids, *after]

    def _warn(self, what: str, ids: list[int]) -> None:
        if not self._warned:
            text = self.decode(ids, skip_special=False)
            _log.warning("the prompt %s with %.80r, which is added to every prompt: it is not added again", what, text)
        self._warned = True

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Text of token ids: what :meth:`stream_decoder` gives, joined.

        Args:
            skip_special: leave control tokens out.

        Raises:
            TokenIdError: an id is negative or no integer, or there is no list of them. An id beyond the vocabulary is a
                padding row of the model and has no text.
            ArgumentError: ``skip_special`` is neither True nor False.
        """
        if not isinstance(ids, Iterable) or isinstance(ids, str | bytes | Mapping):
            raise TokenIdError(f"ids: expected a list of token ids, got {quoted(ids)}")
        stream = self.stream_decoder(flag("skip_special", skip_special))
        return "".join([*map(stream.push, ids), stream.flush()])

    def stream_decoder(self, skip_special: bool = True) -> StreamDecoder:
        """Decodes one id after the other, as they are generated."""
        return StreamDecoder(self, skip_special)

    def token_bytes(self, token_id: int) -> bytes:
        """What one token stands for, as bytes, which need not be whole characters. A control token is its spelling.

        Raises:
            TokenIdError: as of :meth:`decode`.
        """
        number = self._checked(token_id)
        return b"" if number is None else self._token_bytes(number)

    def _checked(self, token_id: int) -> int | None:
        """The id as a plain integer; None if there is no such token."""
        try:
            number = operator.index(token_id)
        except TypeError:
            raise TokenIdError(f"token id: expected an integer, got {quoted(token_id)}") from None
        if number < 0:
            raise TokenIdError(f"token id: expected 0 or more, got {quoted(number)}")
        return number if number < self.vocab_size else None

    @cached_property
    def _recent_bytes(self) -> Callable[[int], bytes]:
        """:meth:`_token_bytes` that remembers the tokens of late: texts repeat them, libraries take long to tell."""
        return lru_cache(4096)(self._token_bytes)

    @abstractmethod
    def _encode(self, text: str, parse_special: bool, breaks: Sequence[int]) -> list[int]:
        """Ids of the text alone. For a text of more than ``LONG_TEXT`` characters it does not keep the GIL."""

    @abstractmethod
    def _content(self) -> bytes:
        """All that ids and texts depend on besides the facts."""

    @abstractmethod
    def _token_bytes(self, number: int) -> bytes:
        """Bytes of a token of the vocabulary."""

    @abstractmethod
    def _decoding(self) -> Decoding:
        """A new decoding, for ids of the vocabulary."""


def _check_breaks(breaks: Sequence[int], size: int) -> None:
    """ArgumentError unless they are ascending places in a text of so many characters."""
    if not isinstance(breaks, list | tuple):
        raise ArgumentError(f"must be a list of whole numbers, got {quoted(breaks)}", "breaks")
    for place, following in pairwise((0, *(whole("breaks", place) for place in breaks), size)):
        if place > following:
            raise ArgumentError(f"must ascend from 0 to {size}, the text's length, got {quoted(breaks)}", "breaks")


class StreamDecoder(OfOneProcess, instead="make one with the tokenizer's stream_decoder()"):
    """Text of a sequence of ids, id by id: whole characters only, and joined the same as ``decode`` of all ids."""

    def __init__(self, tokenizer: Tokenizer, skip_special: bool) -> None:
        self._tokenizer = tokenizer
        self._decoding = tokenizer._decoding()
        self._skip: frozenset[int] = tokenizer.special_ids if skip_special else frozenset()

    def push(self, token_id: int) -> str:
        """The text that this id completes; often empty, for a part of a character or a control token.

        Raises:
            TokenIdError: as of :meth:`Tokenizer.decode`.
        """
        number = self._tokenizer._checked(token_id)
        if number is None or number in self._skip:
            return ""
        return self._decoding.push(number)

    def flush(self) -> str:
        """The text that was held back, at the end of the sequence: a character cut short becomes U+FFFD."""
        return self._decoding.flush()
