"""The interface that all tokenizers share: text to token ids, and ids back to text."""

from __future__ import annotations

import hashlib
import logging
import operator
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from pyml_core.errors import PymlError, quoted
from pyml_core.locks import NoFork, cached_property
from pyml_core.pickling import OfOneProcess, SharedByCopies

from ..background import run_cancellable
from ..errors import ArgumentError
from ..values import flag, is_list, whole
from .decoding import Decoding

_log = logging.getLogger("pyml.tokenizer")

MAX_TEXT = 8 << 20
"""Maximum number of characters of one text: about ten times the longest context, and seconds of work."""

LONG_TEXT = 1 << 14
"""Texts with more characters than this are encoded in a call that can be cancelled; shorter ones take milliseconds."""

MAX_TOKENS = 1 << 22
"""Maximum number of tokens in a vocabulary: sixteen times the largest one known."""

MAX_TOKEN_LENGTH = 1 << 16
"""Maximum number of characters of one token."""

_MARKER = re.compile(r"<[^<>\s]{1,64}>|\[[^\[\]\s]{1,64}\]")

libraries = NoFork("tokenizer")
"""Section for calls into ``tokenizers``. Forks wait for it: a child would inherit the library's locked state."""


class TextError(PymlError, ValueError):
    """A text that cannot be encoded: it is too long or not valid Unicode, or has no tokens where one is needed."""


class TokenIdError(PymlError, ValueError):
    """An invalid token id."""


@dataclass(frozen=True, kw_only=True)
class TokenizerMetadata:
    """Properties of a tokenizer apart from its algorithm.

    Attributes:
        kind: its source: ``"tokenizer.json"``, ``"vocab.json"``, ``"tokenizer.model"``, ``"gguf llama"``,
            ``"gguf gpt2"`` or ``"gguf gemma4"``.
        vocab_size: the largest token id plus one. A model may have more rows than that (padding).
        bos_id: the token that begins a text, if the model has one; ``prefix`` says whether ``encode`` adds it.
        eos_ids: the tokens that end a text, ascending.
        special_ids: control tokens, which ``decode`` leaves out by default.
        prefix: ids that ``encode`` puts before a text.
        suffix: ids that ``encode`` puts after a text.
        named_tokens: texts of the tokens that have a name in the files (``bos_token`` and the like), by name.
        chat_templates: Jinja sources of the model's chat templates by name, unchecked. Most models have one,
            ``default``.
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
    """Converts text to token ids and back. Made by :func:`pyml_nlp.tokenizer.load_tokenizer`; thread-safe.

    Attributes ``kind``, ``vocab_size``, ``bos_id``, ``eos_ids``, ``special_ids``: see :class:`TokenizerMetadata`.
    ``path``: the absolute path of the file or folder that it was loaded from; None: not from files.

    Pickling stores this path; unpickling loads the tokenizer again, and fails if the result differs.
    """

    def __init__(self, metadata: TokenizerMetadata) -> None:
        self.metadata = metadata
        self.path: Path | None = None
        self._reload: Callable[[Path, str], Tokenizer] | None = None
        self.kind = metadata.kind
        self.vocab_size = metadata.vocab_size
        self.bos_id = metadata.bos_id
        self.eos_ids = metadata.eos_ids
        self.special_ids = frozenset(metadata.special_ids)
        self._warned = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} from {self.kind}: {self.vocab_size} tokens>"

    def __reduce__(self) -> tuple[Any, ...]:
        if self.path is None or self._reload is None:
            raise PymlError("tokenizer: it was not loaded from a path and cannot be pickled: make it in each process")
        return self._reload, (self.path, self.fingerprint)

    def set_origin(self, path: Path, reload: Callable[[Path, str], Tokenizer]) -> None:
        """Make the tokenizer picklable.

        Args:
            path: the file or folder that it was loaded from.
            reload: loads it again from ``path``, and checks its ``fingerprint``.
        """
        self.path, self._reload = path.absolute(), reload

    @cached_property
    def fingerprint(self) -> str:
        """32 hexadecimal digits that identify the tokenizer: its vocabulary, its metadata and its algorithm."""
        metadata = replace(self.metadata, special_ids=sorted(self.metadata.special_ids))
        digest = hashlib.sha256(f"{type(self).__name__} {metadata!r}".encode())
        digest.update(self._content())
        return digest.hexdigest()[:32]

    @property
    def chat_template(self) -> str | None:
        """The Jinja source of the model's default chat template, unchecked; None if it has no template."""
        templates = self.metadata.chat_templates
        return templates.get("default", next(iter(templates.values()), None))

    @cached_property
    def control_tokens(self) -> Mapping[str, int]:
        """Spellings and ids of the control tokens and of the tokens that end a text."""
        numbers = [*self.eos_ids, *sorted(self.special_ids)]  # of tokens with equal spelling, a special one wins
        return {self._token_bytes(number).decode("utf-8", "replace"): number for number in numbers}

    @cached_property
    def markers(self) -> Mapping[str, int]:
        """Spellings and ids of the tokens that were added as plain words and look like control tokens: ``<think>``."""
        return {text: number for text, number in self._added_words().items() if _MARKER.fullmatch(text)}

    def _added_words(self) -> Mapping[str, int]:
        """Spellings and ids of the tokens that were added as plain words, which are found in every text."""
        return {}

    def encode(
        self, text: str, add_special: bool = True, parse_special: bool = True, boundaries: Sequence[int] = ()
    ) -> list[int]:
        """Encode a text into token ids.

        Args:
            text: the text.
            add_special: add BOS and the other tokens that the model expects around a text.
            parse_special: read the spelling of a control token ("<eos>") in the text as that token, as the original
                tokenizers do. With False it is plain text and never becomes a control token: use this for untrusted
                text. Tokens that were added as plain words (GGUF: user-defined) are found either way.
            boundaries: ascending positions in the text that no control token and none of the :attr:`markers` may cross:
                a spelling that crosses one is plain text. Use this for text that is trusted in part.

        Raises:
            TextError: the text is not a str, has more than ``MAX_TEXT`` characters, or has a lone surrogate.
            ArgumentError: another argument has the wrong type.
            Cancelled: the :class:`pyml_core.CancelToken` that this thread has entered was cancelled, and the text has
                more than ``LONG_TEXT`` characters.
        """
        if not isinstance(text, str):
            raise TextError(f"text: expected str, got {type(text).__name__}")
        add_special, parse_special = flag("add_special", add_special), flag("parse_special", parse_special)
        _check_boundaries(boundaries, len(text))
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
            ids = run_cancellable(lambda: self._encode(text, parse_special, boundaries))
        else:
            ids = self._encode(text, parse_special, boundaries)
        return [*self.metadata.prefix, *ids, *self.metadata.suffix] if add_special else ids

    def encode_prompt(self, text: str) -> list[int]:
        """Encode a prompt: like :meth:`encode`, but BOS and EOS are not added where the text already has them.

        The first time that a text has one of them already, a warning is logged.

        Raises:
            TextError: see :meth:`encode`.
        """
        ids = self.encode(text, add_special=False)
        before, after = list(self.metadata.prefix), list(self.metadata.suffix)
        if before and ids[: len(before)] == before:
            self._warn("begins", before)
            ids = ids[len(before) :]
        if after and ids[-len(after) :] == after:
            self._warn("ends", after)
            ids = ids[: -len(after)]
        return [*before, *ids, *after]

    def _warn(self, label: str, ids: list[int]) -> None:
        if not self._warned:
            text = self.decode(ids, skip_special=False)
            _log.warning("the prompt %s with %.80r, which is added to every prompt: it is not added again", label, text)
        self._warned = True

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Decode token ids into text: the joined output of :meth:`stream_decoder`.

        Args:
            ids: token ids. An id beyond the vocabulary is a padding row of the model and has no text.
            skip_special: leave control tokens out.

        Raises:
            TokenIdError: ``ids`` is not a sequence, or an id is negative or not an integer.
            ArgumentError: ``skip_special`` is neither True nor False.
        """
        if not is_list(ids):
            raise TokenIdError(f"ids: expected a list of token ids, got {quoted(ids)}")
        stream = self.stream_decoder(skip_special)
        return "".join([*map(stream.push, ids), stream.flush()])

    def stream_decoder(self, skip_special: bool = True) -> StreamDecoder:
        """Return a decoder that takes one id at a time, as ids are generated."""
        return StreamDecoder(self, flag("skip_special", skip_special))

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes of one token, which may end inside a character. A control token gives its spelling.

        Raises:
            TokenIdError: see :meth:`decode`.
        """
        number = self._checked(token_id)
        return b"" if number is None else self._token_bytes(number)

    def _checked(self, token_id: int) -> int | None:
        """Return the id as a plain integer, or None if it is beyond the vocabulary."""
        try:
            number = operator.index(token_id)
        except TypeError:
            raise TokenIdError(f"token id: expected an integer, got {quoted(token_id)}") from None
        if number < 0:
            raise TokenIdError(f"token id: expected 0 or more, got {quoted(number)}")
        return number if number < self.vocab_size else None

    @abstractmethod
    def _encode(self, text: str, parse_special: bool, boundaries: Sequence[int]) -> list[int]:
        """Encode the text without prefix and suffix. Releases the GIL for more than ``LONG_TEXT`` characters."""

    @abstractmethod
    def _content(self) -> bytes:
        """Everything except the metadata that ids and texts depend on, for the fingerprint."""

    @abstractmethod
    def _token_bytes(self, number: int) -> bytes:
        """Return the bytes of a token of the vocabulary."""

    @abstractmethod
    def _decoding(self) -> Decoding:
        """Return a new decoding, which takes ids of the vocabulary."""


def _check_boundaries(boundaries: Sequence[int], size: int) -> None:
    """Raise ArgumentError unless ``boundaries`` are ascending positions in a text of ``size`` characters."""
    if not isinstance(boundaries, list | tuple):
        raise ArgumentError(f"must be a list of whole numbers, got {quoted(boundaries)}", "boundaries")
    for place, following in pairwise((0, *(whole("boundaries", place) for place in boundaries), size)):
        if place > following:
            message = f"must ascend from 0 to {size}, the text's length, got {quoted(boundaries)}"
            raise ArgumentError(message, "boundaries")


class StreamDecoder(OfOneProcess, instead="make one with the tokenizer's stream_decoder()"):
    """Decodes ids one at a time into whole characters. The joined pieces equal ``decode`` of all ids."""

    def __init__(self, tokenizer: Tokenizer, skip_special: bool) -> None:
        self._tokenizer = tokenizer
        self._decoding = tokenizer._decoding()
        self._skip: frozenset[int] = tokenizer.special_ids if skip_special else frozenset()

    def push(self, token_id: int) -> str:
        """Return the text that this id completes: often empty, for a partial character or a control token.

        Raises:
            TokenIdError: see :meth:`Tokenizer.decode`.
        """
        number = self._tokenizer._checked(token_id)
        if number is None or number in self._skip:
            return ""
        return self._decoding.push(number)

    def flush(self) -> str:
        """Return the held-back text at the end of the sequence; an incomplete character becomes U+FFFD."""
        return self._decoding.flush()
