"""Tokenizers in packed models: written as two parts, and made again from them.

The description is a JSON object: the metadata, and how to make the algorithm. Its tokens are another, which a model
of many special tokens fills. The model is the text of a tokenizer.json, or SentencePiece's. All come from a file and
are checked like the originals.

Making a large tokenizer takes longer than mapping a large model, so :class:`DeferredTokenizer` makes it in the
background.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, cast

from pyml_core.errors import PymlError, quoted
from pyml_core.locks import cached_property

from ..background import BackgroundCall
from ..errors import ModelFileError
from ..formats.config import parse_json_object
from .base import MAX_TOKEN_LENGTH, MAX_TOKENS, Tokenizer, TokenizerMetadata, libraries
from .config_files import MAX_CHAT_TEMPLATE
from .decoding import Decoding

KINDS = ("pieces", "library")
SPACE_PREFIXES = ("always", "first", "never")


class PackedTokenizer(NamedTuple):
    """A tokenizer as it is stored.

    Attributes:
        description: a JSON object.
        tokens: the text of a JSON object.
        model: a ModelProto of SentencePiece, or the text of a tokenizer.json.
    """

    description: dict[str, Any]
    tokens: bytes | memoryview
    model: bytes | memoryview


def pack_tokenizer(tokenizer: Tokenizer) -> PackedTokenizer:
    """Return the parts that :func:`unpack_tokenizer` makes an equal tokenizer from.

    Raises:
        PymlError: a tokenizer of another library.
    """
    from .pieces import PieceTokenizer  # perf: cold.py. Each kind imports its own library only

    metadata = asdict(replace(tokenizer.metadata, special_ids=sorted(tokenizer.metadata.special_ids)))
    metadata |= {name: list(metadata[name]) for name in ("eos_ids", "prefix", "suffix")}
    if isinstance(tokenizer, PieceTokenizer):
        tokens = {"control": dict(tokenizer.control), "added": dict(tokenizer.added), "texts": _pairs(tokenizer.texts)}
        own = {"kind": "pieces", "space_prefix": tokenizer.space_prefix}
        return PackedTokenizer({"metadata": metadata, **own}, _json(tokens), tokenizer.model)
    from .library import LibraryTokenizer  # likewise

    if not isinstance(tokenizer, LibraryTokenizer):
        raise PymlError(f"tokenizer: a {type(tokenizer).__name__} cannot be packed")
    own = {"kind": "library", "decoder": tokenizer.source}
    tokens = {"texts": _pairs(tokenizer.texts)}
    return PackedTokenizer({"metadata": metadata, **own}, _json(tokens), tokenizer.document().encode())


def _pairs(texts: Mapping[int, str]) -> list[tuple[int, str]]:
    return list(texts.items())


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def read_metadata(description: dict[str, Any], label: str) -> TokenizerMetadata:
    """Read the metadata of a description.

    Raises:
        ModelFileError: a value is missing, or of the wrong type.
    """
    return _Reader(description, label).metadata()


def unpack_tokenizer(packed: PackedTokenizer, label: str) -> Tokenizer:
    """Make a tokenizer.

    Args:
        packed: its parts, of an untrusted file.
        label: the file, for messages.

    Raises:
        ModelFileError: they are malformed, or are refused like those of an original.
    """
    reader = _Reader(packed.description, label)
    metadata = reader.metadata()
    tokens = _Reader(parse_json_object(bytes(packed.tokens), label), label, "tokenizer tokens")
    with libraries:  # the first call imports them too
        make = _pieces if reader.word("kind", KINDS) == "pieces" else _library
        return make(reader, tokens, metadata, bytes(packed.model))


def _pieces(reader: _Reader, tokens: _Reader, metadata: TokenizerMetadata, model: bytes) -> Tokenizer:
    from .pieces import PieceTokenizer, SpacePrefix, checked_processor  # perf: cold.py. Each its own library only

    processor, _, spaces = checked_processor(model, reader.label)
    return PieceTokenizer(
        metadata,
        model,
        processor,
        control=tokens.ids("control"),
        added=tokens.ids("added"),
        texts=tokens.texts(),
        space_prefix=cast("SpacePrefix", reader.word("space_prefix", SPACE_PREFIXES)),
        spaces=spaces,
    )


def _library(reader: _Reader, tokens: _Reader, metadata: TokenizerMetadata, model: bytes) -> Tokenizer:
    from .json_decoder import decoder  # likewise
    from .library import LibraryTokenizer  # likewise
    from .tokenizer_json import library_object  # likewise

    engine = library_object(parse_json_object(model, reader.label), reader.label)
    source = reader.text("decoder", MAX_TOKEN_LENGTH)
    if not source:
        return LibraryTokenizer(metadata, engine, texts=tokens.texts())
    document = parse_json_object(f'{{"decoder": {source}}}'.encode(), reader.label)
    make_decoding, piece_bytes = decoder(document, reader.label)
    return LibraryTokenizer(metadata, engine, make_decoding, piece_bytes, tokens.texts(), source)


class DeferredTokenizer(Tokenizer):
    """A tokenizer that is made in the background; its first use waits for it.

    Args:
        metadata: its metadata, which are there at once.
        make: makes the tokenizer itself.

    A tokenizer that cannot be made raises its error at each use.
    """

    def __init__(self, metadata: TokenizerMetadata, make: Callable[[], Tokenizer]) -> None:
        super().__init__(metadata)
        self._making = BackgroundCall(make)

    def __repr__(self) -> str:
        return f"<Tokenizer from {self.kind}: {self.vocab_size} tokens>"

    @property
    def made(self) -> Tokenizer:
        """The tokenizer itself."""
        return self._making.result()

    @cached_property
    def fingerprint(self) -> str:
        """See :attr:`Tokenizer.fingerprint`: that of the tokenizer itself."""
        return self.made.fingerprint

    def _encode(self, text: str, parse_special: bool, boundaries: Sequence[int]) -> list[int]:
        return self.made._encode(text, parse_special, boundaries)

    def _added_words(self) -> Mapping[str, int]:
        return self.made._added_words()

    def _content(self) -> bytes:
        return self.made._content()

    def _token_bytes(self, number: int) -> bytes:
        return self.made._token_bytes(number)

    def _decoding(self) -> Decoding:
        return self.made._decoding()


class _Reader:
    """Typed access to a description; every method raises ModelFileError for a value of another type."""

    def __init__(self, values: dict[str, Any], label: str, where: str = "tokenizer") -> None:
        self._values, self.label, self._where = values, label, where

    def _fail(self, key: str, expected: str) -> NoReturn:
        found = self._values.get(key)
        raise ModelFileError(
            f"{self.label}: {self._where}.{key}: expected {expected}, got {quoted(json.dumps(found)[:200])}"
        )

    def word(self, key: str, words: Sequence[str]) -> str:
        found = self._values.get(key)
        if not isinstance(found, str) or found not in words:
            self._fail(key, f"one of {', '.join(words)}")
        return found

    def text(self, key: str, limit: int) -> str:
        found = self._values.get(key)
        if not isinstance(found, str) or len(found) > limit:
            self._fail(key, f"a text of at most {limit} characters")
        return found

    def number(self, key: str, most: int) -> int:
        found = self._values.get(key)
        if type(found) is not int or not 0 <= found <= most:
            self._fail(key, f"a whole number from 0 to {most}")
        return found

    def numbers(self, key: str) -> list[int]:
        found = self._values.get(key)
        if not isinstance(found, list) or not all(_is_id(number) for number in found):
            self._fail(key, f"a list of token ids below {MAX_TOKENS}")
        return found

    def strings(self, key: str, limit: int) -> dict[str, str]:
        found = self._values.get(key)
        if not isinstance(found, dict) or not all(
            isinstance(text, str) and len(text) <= limit for text in found.values()
        ):
            self._fail(key, f"an object of texts of at most {limit} characters")
        return found

    def ids(self, key: str) -> dict[str, int]:
        found = self._values.get(key)
        if not isinstance(found, dict) or not all(
            0 < len(text) <= MAX_TOKEN_LENGTH and _is_id(number) for text, number in found.items()
        ):
            self._fail(key, "an object of tokens and their ids")
        return found

    def texts(self) -> dict[int, str]:
        found = self._values.get("texts")
        if not isinstance(found, list):
            self._fail("texts", "a list of ids and texts")
        texts: dict[int, str] = {}
        for entry in found:
            match entry:
                case [int(number), str(text)] if _is_id(number) and len(text) <= 4 * MAX_TOKEN_LENGTH:
                    texts[number] = text
                case _:
                    self._fail("texts", "a list of ids and texts")
        return texts

    def metadata(self) -> TokenizerMetadata:
        values = self._values.get("metadata")
        if not isinstance(values, dict):
            self._fail("metadata", "an object")
        inner = _Reader(values, self.label, "tokenizer.metadata")
        bos = None if values.get("bos_id") is None else inner.number("bos_id", MAX_TOKENS - 1)
        size = inner.number("vocab_size", MAX_TOKENS)
        return TokenizerMetadata(
            kind=inner.text("kind", 64),
            vocab_size=size,
            bos_id=bos,
            eos_ids=tuple(inner.numbers("eos_ids")),
            special_ids=inner.numbers("special_ids"),
            prefix=tuple(inner.numbers("prefix")),
            suffix=tuple(inner.numbers("suffix")),
            named_tokens=inner.strings("named_tokens", MAX_TOKEN_LENGTH),
            chat_templates=inner.strings("chat_templates", MAX_CHAT_TEMPLATE),
        )


def _is_id(number: Any) -> bool:
    return type(number) is int and 0 <= number < MAX_TOKENS


def deferred(packed: PackedTokenizer, path: Path) -> DeferredTokenizer:
    """Return a tokenizer whose metadata have been checked, and which is being made.

    Raises:
        ModelFileError: the metadata are malformed.
    """
    return DeferredTokenizer(read_metadata(packed.description, str(path)), lambda: unpack_tokenizer(packed, str(path)))
