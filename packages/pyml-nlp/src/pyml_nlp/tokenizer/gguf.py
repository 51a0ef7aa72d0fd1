"""Tokenizers from the metadata of a GGUF file.

Its ``tokenizer.ggml.model`` is ``llama`` (SentencePiece) or ``gpt2`` (byte-level BPE).

Source: llama.cpp, ``llama-vocab.cpp``, for the keys, their defaults and which tokens are found in text.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ModelFileError
from . import byte_level, model_proto
from .base import MAX_TOKEN_LENGTH, MAX_TOKENS, Facts, Tokenizer
from .byte_level import PRE_TOKENIZERS
from .config_files import MAX_CHAT_TEMPLATE, TURN_ENDS
from .decoding import SPACE, byte_of
from .library import LibraryTokenizer, build_bpe, guarded, split_merges
from .model_proto import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, Spaces
from .pieces import PieceTokenizer, load_processor

_log = logging.getLogger("pyml.tokenizer")

_KEY = "tokenizer.ggml."
_TEMPLATE = "tokenizer.chat_template"


def load_gguf(metadata: Mapping[str, Any], what: str) -> Tokenizer:
    """The tokenizer that the metadata of a GGUF file describes.

    Args:
        metadata: keys and values as :class:`pyml_nlp.formats.gguf.GGUFFile` gives them.
        what: the file, for messages.

    Raises:
        ModelFileError: a key is missing or its value malformed; a model or pre-tokenizer that pyml does not know.
    """
    match model := metadata.get(_KEY + "model"):
        case str("llama"):
            return _load_llama(_Vocabulary(metadata, what))
        case str("gpt2"):
            return _load_gpt2(_Vocabulary(metadata, what))
    raise ModelFileError(f"{what}: {_KEY}model: expected 'llama' or 'gpt2', got {_describe(model)}")


class _Vocabulary:
    """The checked metadata: tokens by id, their types, and the ids of those with a role."""

    def __init__(self, metadata: Mapping[str, Any], what: str) -> None:
        self._metadata = metadata
        self.what = what
        self.tokens = self._tokens()
        self.types = self._types()

    def fail(self, key: str, message: str) -> ModelFileError:
        return ModelFileError(f"{self.what}: {_KEY}{key}: {message}")

    def _strings(self, key: str) -> list[str]:
        value = self._metadata.get(_KEY + key)
        if not isinstance(value, list) or not set(map(type, value)) <= {str}:
            raise self.fail(key, f"expected an array of strings, got {_describe(value)}")
        return value

    def _tokens(self) -> list[str]:
        tokens = self._strings("tokens")
        if not 0 < len(tokens) <= MAX_TOKENS:
            raise self.fail("tokens", f"expected 1 to {MAX_TOKENS} tokens, got {len(tokens)}")
        longest = max(map(len, tokens))
        if longest > MAX_TOKEN_LENGTH:
            number = next(number for number, text in enumerate(tokens) if len(text) == longest)
            raise self.fail("tokens", f"token {number}: expected at most {MAX_TOKEN_LENGTH} characters, got {longest}")
        if "" in tokens:  # as llama.cpp has it
            tokens = [text or f"[EMPTY_{number}]" for number, text in enumerate(tokens)]
        return tokens

    def numbers(self, key: str, kinds: str, expected: str) -> npt.NDArray[Any] | None:
        """An array of as many numbers as there are tokens; None if the key is missing."""
        value = self._metadata.get(_KEY + key)
        if value is None:
            return None
        array = np.asarray(value) if isinstance(value, list | np.ndarray) else np.empty(0)
        if array.ndim != 1 or array.dtype.kind not in kinds or array.dtype.itemsize < 4:
            raise self.fail(key, f"expected an array of {expected}, got {_describe(value)}")
        if len(array) != len(self.tokens):
            raise self.fail(key, f"expected one for each of {len(self.tokens)} tokens, got {len(array)}")
        return array

    def _types(self) -> npt.NDArray[np.uint8]:
        found = self.numbers("token_type", "iu", "integers")
        if found is None:
            found = np.full(len(self.tokens), NORMAL)
        elif found.min() < 0 or found.max() > BYTE:
            raise self.fail("token_type", f"expected 0 to {BYTE}, got {found.min()} to {found.max()}")
        return np.where(found == 0, NORMAL, found).astype(np.uint8)  # 0: undefined

    def has(self, key: str) -> bool:
        return self._metadata.get(_KEY + key) is not None

    def flag(self, key: str, default: bool) -> bool:
        value = self._metadata.get(_KEY + key)
        if value is None:
            return default
        if not isinstance(value, bool | np.bool_):
            raise self.fail(key, f"expected a bool, got {_describe(value)}")
        return bool(value)

    def id(self, key: str) -> int | None:
        value = self._metadata.get(_KEY + key)
        if value is None:
            return None
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or not 0 <= value < len(self.tokens):
            raise self.fail(key, f"expected an id from 0 to {len(self.tokens) - 1}, got {_describe(value)}")
        return int(value)

    def text(self, key: str) -> str | None:
        value = self._metadata.get(key)
        if value is None:
            return None
        if not isinstance(value, str) or len(value) > MAX_CHAT_TEMPLATE:
            raise ModelFileError(
                f"{self.what}: {key}: expected text of at most {MAX_CHAT_TEMPLATE} characters, got {_describe(value)}"
            )
        return value

    def merges(self) -> list[tuple[str, str]]:
        return split_merges(self._strings("merges"), f"{self.what}: {_KEY}merges")

    def ids_of(self, *types: int) -> list[int]:
        return [*map(int, np.flatnonzero(np.isin(self.types, types)))]

    def facts(self, kind: str, add_bos: bool, default_ids: Mapping[str, int]) -> Facts:
        """BOS, EOS and what is put around a text."""
        roles = {role: self.id(f"{role}_token_id") for role in ("bos", "eos", "eot", "eom")}
        for role, default_id in default_ids.items():
            if roles[role] is None and default_id < len(self.tokens):
                roles[role] = default_id
        around: list[tuple[int, ...]] = []
        for role, default in (("bos", add_bos), ("eos", False)):
            number = roles[role]
            wanted = self.flag(f"add_{role}_token", default)
            if wanted and number is None:
                raise self.fail(f"add_{role}_token", f"expected {_KEY}{role}_token_id too, got none")
            around.append((number,) if wanted and number is not None else ())
        special = self.ids_of(CONTROL, UNKNOWN)
        ends = {roles[role] for role in ("eos", "eot", "eom")}
        ends.update(number for number in special if self.tokens[number] in TURN_ENDS)
        return Facts(
            kind=kind,
            vocab_size=len(self.tokens),
            bos_id=roles["bos"],
            eos_ids=tuple(sorted(number for number in ends if number is not None)),
            special_ids=special,
            prefix=around[0],
            suffix=around[1],
            named_tokens=self.named_tokens(roles),
            chat_templates=self.chat_templates(),
        )

    def named_tokens(self, roles: Mapping[str, int | None]) -> dict[str, str]:
        """Texts of the tokens with a name, under the names of Hugging Face's files."""
        ids: dict[str, Any] = {f"{role}_token": roles[role] for role in ("bos", "eos")}
        for role, key in (("unk", "unknown"), ("sep", "seperator"), ("pad", "padding"), ("mask", "mask")):  # as spelled
            ids[f"{role}_token"] = self._metadata.get(f"{_KEY}{key}_token_id")
        known = range(len(self.tokens))  # -1, or one beyond the end, is how some files say that there is none
        return {name: self.tokens[number] for name, number in ids.items() if number in known}

    def chat_templates(self) -> dict[str, str]:
        """The chat templates by name: the file's own, and those under names of their own."""
        found = {}
        for key in self._metadata:
            if key == _TEMPLATE or key.startswith(_TEMPLATE + "."):
                text = self.text(key)
                if text is not None:
                    found[key.removeprefix(_TEMPLATE).lstrip(".") or "default"] = text
        return found


def _describe(value: Any) -> str:
    if isinstance(value, list | tuple | np.ndarray):
        kinds = sorted({type(element).__name__ for element in value[:1000]})
        return f"{len(value)} of {' and '.join(kinds) or 'nothing'}"
    return "none" if value is None else f"{value!r:.80}"


def _load_llama(vocabulary: _Vocabulary) -> Tokenizer:
    tokens, types = vocabulary.tokens, vocabulary.types
    if vocabulary.has("precompiled_charsmap"):  # of the model "t5"
        raise vocabulary.fail("precompiled_charsmap", "expected none for the model 'llama', got one")
    scores = vocabulary.numbers("scores", "f", "floats")
    if scores is None:
        raise vocabulary.fail("scores", "expected an array of floats, got none")
    with np.errstate(over="ignore"):
        scores = scores.astype(np.float32)
    if not np.isfinite(scores).all():
        number = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise vocabulary.fail("scores", f"token {number}: expected a finite score, got {scores[number]}")
    byte_ids = vocabulary.ids_of(BYTE)
    if byte_ids:
        _check_bytes(vocabulary, byte_ids)
    pieces = list(tokens)
    _one_unknown(vocabulary, pieces, bool(byte_ids))
    special: dict[int, str] = {}
    for number in vocabulary.ids_of(CONTROL, UNKNOWN, USER_DEFINED):
        text = tokens[number]
        pieces[number] = text.replace(" ", SPACE)  # GGUF has plain spaces in user-defined pieces
        special[number] = text if text.strip(" ") else pieces[number]
    if len(pieces) > len(tokens):
        scores, types = np.append(scores, np.float32(0)), np.append(types, np.uint8(UNKNOWN))
    spaces = Spaces(vocabulary.flag("add_space_prefix", True), vocabulary.flag("remove_extra_whitespaces", False))
    model = model_proto.write_bpe(pieces, scores, types, vocabulary.what, byte_fallback=bool(byte_ids), spaces=spaces)
    processor = load_processor(model, vocabulary.what)
    user_defined = set(vocabulary.ids_of(USER_DEFINED))
    return PieceTokenizer(
        vocabulary.facts("gguf llama", add_bos=True, default_ids={"bos": 1, "eos": 2}),
        model,
        processor,
        control={text: number for number, text in special.items() if number not in user_defined},
        added={text: number for number, text in special.items() if number in user_defined},
        spaces=spaces,
    )


def _check_bytes(vocabulary: _Vocabulary, ids: Sequence[int]) -> None:
    found = {}
    for number in ids:
        text = vocabulary.tokens[number]
        byte = byte_of(text)
        if byte is None or text != f"<0x{byte:02X}>":
            raise vocabulary.fail("tokens", f"token {number}: expected a byte such as '<0x0A>', got {text[:80]!r}")
        found[byte] = number
    if len(found) != 256:
        raise vocabulary.fail("token_type", f"expected 256 different byte tokens or none, got {len(found)}")


def _one_unknown(vocabulary: _Vocabulary, pieces: list[str], byte_fallback: bool) -> None:
    """SentencePiece wants one unknown piece: the file's, or one more, which a model with byte pieces never gives."""
    ids = vocabulary.ids_of(UNKNOWN)
    role = vocabulary.id("unknown_token_id")
    if len(ids) > 1:
        raise vocabulary.fail("token_type", f"expected at most one unknown token, got {ids[:3]}")
    if not ids and role is not None and vocabulary.types[role] != BYTE:
        vocabulary.types[role] = UNKNOWN
    elif not ids and byte_fallback:
        pieces.append("\ufdd0unknown")  # a noncharacter: the text of no other piece
    elif not ids:
        raise vocabulary.fail("unknown_token_id", "expected an unknown token or byte tokens, got neither")


def _load_gpt2(vocabulary: _Vocabulary) -> Tokenizer:
    from tokenizers import AddedToken, normalizers
    from tokenizers import Tokenizer as Engine

    name = vocabulary.text(_KEY + "pre")
    if name is None:
        _log.warning("%s: %spre is missing: text is cut as for GPT-2", vocabulary.what, _KEY)
        name = "default"
    rule = PRE_TOKENIZERS.get(name)
    if rule is None:
        raise vocabulary.fail("pre", f"expected one of {', '.join(sorted(PRE_TOKENIZERS))}, got {name!r:.80}")
    tokens = vocabulary.tokens
    vocab = dict(zip(tokens, range(len(tokens)), strict=True))
    if len(vocab) != len(tokens):
        twice = next(number for number, text in enumerate(tokens) if vocab[text] != number)
        raise vocabulary.fail("tokens", f"expected each token once, got {tokens[twice][:80]!r} again")
    merges = vocabulary.merges()
    added = vocabulary.ids_of(CONTROL, UNKNOWN, USER_DEFINED)
    facts = vocabulary.facts("gguf gpt2", add_bos=rule.add_bos, default_ids={})
    model = build_bpe(vocab, merges, vocabulary.what, ignore_merges=rule.ignore_merges)
    with guarded(vocabulary.what):
        engine = Engine(model)
        if rule.nfc:
            engine.normalizer = normalizers.NFC()
        engine.pre_tokenizer = byte_level.build_pre_tokenizer(rule)
        special = set(facts.special_ids)
        engine.add_tokens([AddedToken(tokens[number], normalized=False, special=number in special) for number in added])
    # An added token is its own text, also where all its characters happen to stand for bytes.
    texts = {number: byte_level.from_bytes(tokens[number].encode()) for number in added}
    return LibraryTokenizer(facts, engine, texts=texts)
